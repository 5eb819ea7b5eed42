package jail

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// A command that is being started is a copy of the daemon until it runs its
// program: its memory is not the jail's.
func TestMemoryOfTheDaemonIsNotTheJails(t *testing.T) {
	f := setup(t)
	c, r := f.host("heavy", f.name())
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, b)
	}
	var e Exit
	if err := json.Unmarshal(b, &e); err != nil || e.Code != 7 {
		t.Errorf("%s: %v", b, err)
	}
}

// nested starts a process in a jail in a jail.
func (f *fixture) nested(l Limits, env ...string) (name string, pid int) {
	f.Helper()
	name = f.createSpec(Spec{Limits: l, Params: map[string]string{"children.max": "2"}})
	p, r := f.process("/bin/prog", "inside-nest")
	p.Env = env
	pid, err := f.m.Start(f.Context(), name, p)
	if err != nil {
		f.Fatal(err)
	}
	p.Stdout.Close()
	f.ready(r)
	return name, pid
}

func TestJailsBelowAreSeen(t *testing.T) {
	f := setup(t)
	name, pid := f.nested(Limits{})
	all, err := f.m.Stats()
	if u := all[name]; err != nil || len(u.Procs) != 1 || u.RSS == 0 {
		t.Errorf("%+v %v", u, err)
	}
	empty := f.emptied(name)
	if err := f.m.Signal(name, 0, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := f.exit(pid); e.Signal != int(unix.SIGTERM) {
		t.Errorf("%+v", e)
	}
	<-empty
}

func TestJailsBelowAreWaitedFor(t *testing.T) {
	f := setup(t)
	name, pid := f.nested(Limits{})
	empty := f.emptied(name)
	select {
	case <-empty:
		t.Error("a process is left and it is not said")
	default:
	}
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process is there still: %v", err)
	}
	if e := f.exit(pid); e.Signal != int(unix.SIGKILL) || e.OOM {
		t.Errorf("%+v", e)
	}
	if _, err := jailGet(name+".nest", 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("the jail below is left: %v", err)
	}
	<-empty
}

func TestJailsBelowHaveTheLimit(t *testing.T) {
	f := setup(t)
	_, pid := f.nested(Limits{MemoryBytes: 64 << 20}, "EAT=1")
	f.goOn()
	if e := f.exit(pid); !e.OOM || e.Signal != int(unix.SIGKILL) {
		t.Errorf("%+v", e)
	}
}

// A daemon from before limited the table of files that a process has, which it
// inherits from the daemon.
func TestRulesOfAnEarlierDaemon(t *testing.T) {
	f := setup(t)
	if !f.m.racct {
		t.Skip("this host's kernel does not limit resources (kern.racct.enable=1 in /boot/loader.conf)")
	}
	name := f.create(Limits{MemoryBytes: 1 << 30, MaxProcs: 100})
	pid, r := f.start(name, "/bin/prog", "inside-gate")
	f.ready(r)
	for _, rule := range []string{":openfiles:deny=64", ":memoryuse:sigkill=1073741824"} {
		if _, err := rctl(unix.SYS_RCTL_ADD_RULE, "jail:"+name+rule); err != nil {
			t.Fatal(err)
		}
	}
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.m.Adopt(name, pid, start); err != nil {
		t.Fatal(err)
	}
	rules, err := rctl(unix.SYS_RCTL_GET_RULES, "jail:"+name)
	if err != nil || strings.Contains(rules, "openfiles") || strings.Count(rules, "memoryuse") != 1 ||
		!strings.Contains(rules, "maxproc") {
		t.Errorf("%q %v", rules, err)
	}
}

// The daemon is kept from the kernel's choice when memory runs out; what it
// starts is not.
func TestProtectIsNotInherited(t *testing.T) {
	f := setup(t)
	inherited := int32(pprotSet | 0x20) // PPROT_INHERIT of sys/procctl.h, as by protect -i
	if err := procctl(procSprotect, unsafe.Pointer(&inherited)); err != nil {
		t.Skip(err)
	}
	if err := Protect(); err != nil {
		t.Fatal(err)
	}
	pid, r := f.start(f.create(Limits{}), "/bin/prog", "inside-gate")
	f.ready(r)
	const kiFlag, protected = 368, 0x100000 // sys/user.h, and P_PROTECTED of sys/proc.h
	for pid, want := range map[int]bool{unix.Getpid(): true, pid: false} {
		p, err := bsd.FindProcess(pid)
		if err != nil || (p.Long(kiFlag)&protected != 0) != want {
			t.Errorf("process %d: %v, want %v, %v", pid, !want, want, err)
		}
	}
}
