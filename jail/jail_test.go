package jail

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type fixture struct {
	testing.TB
	m    *Manager
	root string
}

var (
	// One process has one Manager.
	manager = sync.OnceValues(func() (*Manager, error) { return Open(Config{StateDir: stateDir}) })

	stateDir string
	serial   atomic.Int32
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if what, ok := strings.CutPrefix(os.Args[1], "inside-"); ok {
			inside(what)
		}
		if what, ok := strings.CutPrefix(os.Args[1], "host-"); ok {
			onHost(what, os.Args[2:])
		}
	}
	// What nohup(1) has us ignore, the processes in jails would ignore too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	var err error
	if stateDir, err = os.MkdirTemp("", "jail-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(stateDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func setup(t testing.TB) *fixture {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	m, err := manager()
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
	if f, err := elf.Open(self); err != nil || f.Section(".interp") != nil {
		t.Skipf("the test must be a static program to run in a jail: build it with CGO_ENABLED=0 (%v)", err)
	}
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin", "prog"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{TB: t, m: m, root: root}
}

func (f *fixture) name() string {
	return fmt.Sprintf("%stest-%d-%d", namePrefix, os.Getpid(), serial.Add(1))
}

func (f *fixture) create(l Limits) string {
	f.Helper()
	return f.createSpec(Spec{Limits: l})
}

func (f *fixture) createSpec(s Spec) string {
	f.Helper()
	s.Name, s.Root, s.Hostname = f.name(), f.root, "inside"
	if _, err := f.m.Create(f.Context(), s); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := f.m.Remove(context.Background(), s.Name); err != nil {
			f.Error(err)
		}
	})
	return s.Name
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
	return Process{Args: args, Env: []string{"PATH=/bin", "GREETING=hello"}, Dir: "/tmp", Stdin: null, Stdout: w,
		Stderr: w}, r
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
	list, err := f.m.List()
	if err != nil || slices.ContainsFunc(list, func(i Info) bool { return i.Name == name }) {
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
	pid, _ := f.start(f.create(Limits{MemoryBytes: 64 << 20}), "prog", "inside-eat")
	if e := f.exit(pid); !e.OOM || e.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit %+v", e)
	}
}
