package jail

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the program that runs in the jail.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "inside-") {
		inside(strings.TrimPrefix(os.Args[1], "inside-"))
	}
	os.Exit(m.Run())
}

func inside(what string) {
	switch what {
	case "exit7":
		fmt.Println("out")
		fmt.Fprintln(os.Stderr, "err")
		os.Exit(7)
	case "term":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		os.Exit(3)
	case "env":
		host, _ := os.Hostname()
		dir, _ := os.Getwd()
		fmt.Printf("%s %s %s %d\n", os.Getenv("GREETING"), host, dir, os.Getuid())
	case "eat":
		var held [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
			if len(held) > 1<<12 {
				os.Exit(0)
			}
		}
	}
	os.Exit(0)
}

type fixture struct {
	*testing.T
	m    *Manager
	root string
	n    int
}

func setup(t *testing.T) *fixture {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	m, err := Open(Config{StateDir: t.TempDir()})
	if err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	for _, d := range []string{"bin", "dev/pts", "dev/shm", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	prepare(t, root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin", "prog"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{T: t, m: m, root: root}
}

func (f *fixture) create(l Limits) string {
	f.Helper()
	f.n++
	name := fmt.Sprintf("%stest-%d-%d", namePrefix, os.Getpid(), f.n)
	if _, err := f.m.Create(f.Context(), Spec{Name: name, Root: f.root, Hostname: "inside", Limits: l}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := f.m.Remove(f.T.Context(), name); err != nil && f.T.Context().Err() == nil {
			f.Error(err)
		}
	})
	return name
}

func (f *fixture) process(args ...string) (Process, *os.File) {
	f.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close(); r.Close(); w.Close() })
	return Process{Args: args, Env: []string{"PATH=/bin", "GREETING=hello"}, Dir: "/tmp", Stdin: null, Stdout: w, Stderr: w}, r
}

func (f *fixture) start(name string, args ...string) (int, *os.File) {
	f.Helper()
	p, r := f.process(args...)
	pid, err := f.m.Start(f.Context(), name, p)
	if err != nil {
		f.Fatal(err)
	}
	p.Stdout.Close()
	return pid, r
}

func (f *fixture) exit(pid int) Exit {
	f.Helper()
	select {
	case e := <-f.m.Wait(pid):
		return e
	case <-time.After(time.Minute):
		f.Fatal("the process does not end")
	}
	return Exit{}
}

func TestExitCodeAndOutput(t *testing.T) {
	f := setup(t)
	pid, r := f.start(f.create(Limits{}), "prog", "inside-exit7")
	if e := f.exit(pid); e.Code != 7 || !e.Known || e.Signal != 0 {
		t.Errorf("exit %+v", e)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "out\nerr\n" {
		t.Errorf("output %q %v", b, err)
	}
}

func TestEnvironment(t *testing.T) {
	f := setup(t)
	pid, r := f.start(f.create(Limits{}), "/bin/prog", "inside-env")
	f.exit(pid)
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello inside /tmp 0\n" {
		t.Errorf("output %q %v", b, err)
	}
}

func TestSignal(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "prog", "inside-term")
	if _, err := r.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	u, err := f.m.Stats()
	if err != nil || len(u[name].Procs) == 0 || u[name].RSS == 0 && u[name].Procs[0].RSS == 0 {
		t.Errorf("stats %+v %v", u[name], err)
	}
	if err := f.m.Signal(name, pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	if err := f.m.Signal(name, pid, syscall.SIGTERM); err == nil {
		t.Error("a process that has ended took a signal")
	}
}

func TestExecAndKill(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, _ := f.start(name, "prog", "inside-term")
	p, r := f.process("prog", "inside-env")
	p.UID, p.GID = 7, 7
	xpid, err := f.m.Exec(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout.Close()
	if e := f.exit(xpid); e.Code != 0 || !e.Known {
		t.Errorf("exec: %+v", e)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello inside /tmp 7\n" {
		t.Errorf("exec: %q %v", b, err)
	}
	if err := f.m.Signal(name, 0, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); e.Signal != int(syscall.SIGKILL) || e.OOM {
		t.Errorf("exit %+v", e)
	}
	if err := errors.Join(f.m.Remove(t.Context(), name), f.m.Remove(t.Context(), name)); err != nil {
		t.Error(err)
	}
	if list, err := f.m.List(); err != nil || len(list) != 0 {
		t.Errorf("left: %v %v", list, err)
	}
}

func TestMissingProgram(t *testing.T) {
	f := setup(t)
	for _, prog := range []string{"nothere", "/bin/nothere"} {
		p, _ := f.process(prog)
		if _, err := f.m.Start(t.Context(), f.create(Limits{}), p); !errors.Is(err, ErrNoProgram) {
			t.Errorf("%s: %v", prog, err)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	f := setup(t)
	if f.m.Features()["racct"] != "1" {
		t.Skip("this host's kernel does not limit resources")
	}
	pid, _ := f.start(f.create(Limits{MemoryBytes: 64 << 20}), "prog", "inside-eat")
	if e := f.exit(pid); !e.OOM || e.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit %+v", e)
	}
}
