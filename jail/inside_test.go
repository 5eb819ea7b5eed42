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
	case "files":
		n := 0
		for ; n < 10000; n++ {
			if _, err := os.Open("/"); err != nil {
				break
			}
		}
		fmt.Println(n < 100)
	case "tty":
		insideTTY()
	case "tty-owner":
		insideTTYOwner()
	case "burn":
		for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
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
	if what == "upgraded" {
		upgraded(cfg, root, name, args[3], args[4])
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
		must(syscall.Exec(self, []string{self, "host-upgraded", args[0], root, name, fmt.Sprint(pid), start}, os.Environ()))
	}
	fmt.Println("started", pid, start)
	select {}
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
