package jail

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// must ends a helper process.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

// inside is the test binary as the program in a jail.
func inside(what string) {
	switch what {
	case "exit7":
		fmt.Println("out")
		fmt.Fprintln(os.Stderr, "err")
		os.Exit(7)
	case "gate": // waits for a file, then exits with 7
		fmt.Println("ready")
		awaitFile("/tmp/go")
		os.Exit(7)
	case "silent":
		awaitFile("/tmp/go")
	case "term":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		for range 5 {
			must(child().Start())
		}
		fmt.Println("ready")
		awaitFile("/never")
	case "bomb": // only its children: at the limit a program of Go can end for want of a thread
		fmt.Println("ready")
		bomb()
		time.Sleep(time.Hour)
	case "bombs":
		for {
			bomb()
		}
	case "orphan": // leaves a child behind that ends by itself
		c := child()
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		must(c.Start())
	case "zombie": // never asks how its child ended
		c := child()
		c.Args[1] = "inside-nothing"
		must(c.Start())
		fmt.Println("ready")
		awaitFile("/tmp/go")
	case "env":
		host, err := os.Hostname()
		must(err)
		dir, err := os.Getwd()
		must(err)
		fmt.Printf("%s %s %s %d\n", os.Getenv("GREETING"), host, dir, os.Getuid())
	case "whoami":
		groups, err := os.Getgroups()
		must(err)
		fmt.Println(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid(), groups, len(os.Environ()), inherited())
	case "raw":
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
		fmt.Println(err)
	case "addresses":
		tryAddresses()
	case "files":
		n := 0
		for ; n < 10000; n++ {
			if _, err := os.Open("/"); err != nil {
				break
			}
		}
		fmt.Println(n < 100)
	case "heritage":
		fmt.Println(heritage())
	case "shared":
		insideShared(os.Getenv("HOW"))
		fmt.Println("ready")
		awaitFile("/tmp/go")
		os.Exit(7)
	case "nest": // a jail in the jail, with a process that stays
		insideNest()
	case "tty":
		insideTTY()
	case "tty-owner":
		insideTTYOwner()
	case "burn":
		var used syscall.Rusage
		for time.Duration(used.Utime.Nano()+used.Stime.Nano()) < 300*time.Millisecond {
			must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
		}
		fmt.Println("burnt")
		awaitFile("/never")
	case "eat":
		var held [][]byte
		for len(held) < 1<<12 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
		}
	}
	os.Exit(0)
}

// child has stdio of its parent: there need not be a /dev/null.
func child() *exec.Cmd {
	c := exec.Command("/bin/prog", "inside-silent")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c
}

// inherited lists descriptors that came from the parent: those of the Go
// runtime itself are closed on exec.
func inherited() (fds []int) {
	for fd := 3; fd < 256; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

func insideTTY() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	sid, err := unix.Getsid(0)
	must(err)
	pgrp, err := unix.IoctlGetInt(0, unix.TIOCGPGRP) // of the controlling terminal alone
	must(err)
	fmt.Println("ready", sid == os.Getpid(), pgrp == os.Getpid())
	<-c
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	must(err)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	fmt.Println(ws.Row, ws.Col, line)
	os.Exit(5)
}

// insideTTYOwner opens its terminal by name, as ssh and tmux do.
func bomb() {
	c := child()
	c.Args[1], c.Stdout, c.Stderr = "inside-bombs", os.Stdin, os.Stdin // read-only: they say nothing
	_ = c.Start()                                                      // fails at the limit
}

func insideTTYOwner() {
	var own, st unix.Stat_t
	must(unix.Fstat(0, &own))
	names, err := filepath.Glob("/dev/pts/*")
	must(err)
	for _, name := range names {
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == own.Rdev {
			again, err := os.OpenFile(name, os.O_RDWR, 0)
			fmt.Println("owner", st.Uid, err)
			// A terminal that its leader has open by two paths at its end is
			// revoked with what was written to it.
			again.Close()
			return
		}
	}
	fmt.Println("not there", names)
}

func awaitFile(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// onHost is the test binary as a daemon of its own: its arguments are a state
// directory, a root and a jail's name.
func onHost(what string, args []string) {
	cfg := Config{StateDir: args[0], withoutRacct: what == "limited", withoutEvents: what == "scanned"}
	root, name := args[1], args[2]
	switch what {
	case "upgraded":
		upgraded(cfg, root, name, args[3], args[4])
	case "heavy":
		heavy(cfg, root, name)
	case "odd":
		runtime.LockOSThread() // the thread's signal mask is the next program's
		must(becomeOdd())
		self, err := os.Executable()
		must(err)
		must(syscall.Exec(self, append([]string{self, "host-odder"}, args...), os.Environ()))
	}
	m, err := Open(cfg)
	must(err)
	s := Spec{Name: name, Root: root}
	if what == "limited" {
		s.Limits = Limits{MemoryBytes: 64 << 20, OpenFiles: 50}
	}
	_, err = m.Create(context.Background(), s)
	must(err)
	if what == "scanned" {
		must(removeBehindBack(m, name))
		fmt.Println(<-m.Removed())
		must(m.Remove(context.Background(), name))
		os.Exit(0)
	}
	if what == "odder" {
		odder(m, name)
	}
	p := Process{Args: []string{"/bin/prog", "inside-gate"}, Dir: "/tmp", Stdout: os.Stdout, Stderr: os.Stderr}
	if what == "limited" {
		p.Args[1] = "inside-files"
		pid, err := m.Exec(context.Background(), name, p)
		must(err)
		<-m.Wait(pid)
		p.Args[1] = "inside-eat"
	}
	pid, err := m.Start(context.Background(), name, p)
	must(err)
	start, err := StartTime(pid)
	must(err)
	switch what {
	case "limited":
		must(json.NewEncoder(os.Stdout).Encode(<-m.Wait(pid)))
		must(m.Remove(context.Background(), name))
		os.Exit(0)
	case "upgrade":
		self, err := os.Executable()
		must(err)
		must(syscall.Exec(self, []string{self, "host-upgraded", args[0], root, name, fmt.Sprint(pid), start},
			os.Environ()))
	}
	fmt.Println("started", pid, start)
	select {}
}

// heavy is a daemon with more memory than its jail may have. It tells whether a
// process of the jail lives on while others are started beside it.
func heavy(cfg Config, root, name string) {
	ballast := make([]byte, 128<<20)
	for i := range ballast {
		ballast[i] = 1
	}
	m, err := Open(cfg)
	must(err)
	ctx := context.Background()
	_, err = m.Create(ctx, Spec{Name: name, Root: root, Limits: Limits{MemoryBytes: 64 << 20}})
	must(err)
	pid, err := m.Start(ctx, name, Process{Args: []string{"/bin/prog", "inside-gate"}, Dir: "/tmp"})
	must(err)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for begun := time.Now(); time.Since(begun) < 5*time.Second; {
				if x, err := m.Exec(ctx, name,
					Process{Args: []string{"/bin/prog", "inside-nothing"}, Dir: "/tmp"}); err == nil {
					<-m.Wait(x)
				}
			}
		})
	}
	looking, looked := context.WithCancel(ctx)
	go func() {
		for looking.Err() == nil {
			lookAtMemory(m)
		}
	}()
	wg.Wait()
	looked()
	must(os.WriteFile(root+"/tmp/go", nil, 0o644))
	must(json.NewEncoder(os.Stdout).Encode(<-m.Wait(pid)))
	must(m.Remove(ctx, name))
	runtime.KeepAlive(ballast)
	os.Exit(0)
}

// odder starts a process as one that came into an odd world. It runs as a user,
// who cannot mend it.
func odder(m *Manager, name string) {
	p := Process{Args: []string{"/bin/prog", "inside-heritage"}, Dir: "/tmp", UID: 1001, GID: 1001, Stdout: os.Stdout,
		Stderr: os.Stderr}
	pid, err := m.Start(context.Background(), name, p)
	must(err)
	<-m.Wait(pid)
	if m.Features()["backend"] == "jail" {
		pid, err = m.Exec(context.Background(), name, p)
		must(err)
		<-m.Wait(pid)
	}
	must(m.Remove(context.Background(), name))
	os.Exit(0)
}

// heritage is what a process was given beside its arguments, environment and files.
func heritage() string {
	out := fmt.Sprintf("umask %03o", syscall.Umask(0))
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	must(err)
	out += fmt.Sprintf(" nice %v", nice == ordinaryNice)
	for _, l := range []struct {
		name   string
		number int
	}{{"cpu", unix.RLIMIT_CPU}, {"core", unix.RLIMIT_CORE}, {"files", unix.RLIMIT_NOFILE}} {
		var r unix.Rlimit
		must(unix.Getrlimit(l.number, &r))
		out += fmt.Sprintf(" %s %v", l.name, uint64(r.Cur) > 1000)
	}
	return out + signals()
}

// upgraded goes on as the same process. The jail's process ends before it is
// adopted.
func upgraded(cfg Config, root, name, pidText, start string) {
	var pid int
	_, err := fmt.Sscan(pidText, &pid)
	must(err)
	must(os.WriteFile(root+"/tmp/go", nil, 0o644))
	for !isZombie(pid) {
		time.Sleep(time.Millisecond)
	}
	m, err := Open(cfg)
	must(err)
	must(m.Adopt(name, pid, start))
	must(json.NewEncoder(os.Stdout).Encode(<-m.Wait(pid)))
	must(m.Remove(context.Background(), name))
	os.Exit(0)
}
