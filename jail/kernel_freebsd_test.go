package jail

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

func TestKernelParams(t *testing.T) {
	types, err := jailParams()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]paramType{"path": {ctlString, "A"}, "persist": {ctlInt, "B"},
		"allow.raw_sockets": {ctlInt, "B"},
		"allow.mount":       {ctlInt, "B"}, "ip4": {ctlInt, "E,jailsys"}, "ip4.addr": {ctlStruct,
			"S,in_addr,a"}, "securelevel": {ctlInt, "I"}} {
		if types[name] != want {
			t.Errorf("%s: %+v, want %+v", name, types[name], want)
		}
	}
	if len(types) < 50 {
		t.Errorf("%d parameters only", len(types))
	}
}

// param reads a jail's parameter back.
func (f *fixture) param(name, param string, size int) string {
	f.Helper()
	b := make([]byte, size)
	if _, msg, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{bsd.Text("name", name), {Name: param, Value: b}},
		0); err != nil {
		f.Fatalf("%s: %s %v", param, msg, err)
	}
	return string(b)
}

func TestParamsReachTheKernel(t *testing.T) {
	f := setup(t)
	name := f.createSpec(Spec{Meta: map[string]string{"alloc": "a1"}, Params: map[string]string{
		"securelevel": "2", "enforce_statfs": "1", "children.max": "3", "allow.chflags": "true",
		"allow.set_hostname": "false",
		"ip4.addr":           "127.0.0.1", "ip6": "disable", "sysvshm": "new", "sysvmsg": "inherit",
		"osrelease": "14.9-TEST", "devfs_ruleset": "0"}})
	for _, c := range []struct{ param, want string }{
		{"securelevel", string(bsd.Word(2))}, {"enforce_statfs", string(bsd.Word(1))},
		{"children.max", string(bsd.Word(3))},
		{"allow.chflags", string(bsd.Word(1))}, {"allow.set_hostname", string(bsd.Word(0))},
		{"ip4.addr", "\x7f\x00\x00\x01"},
		{"ip6", string(bsd.Word(0))}, {"sysvshm", string(bsd.Word(1))}, {"sysvmsg", string(bsd.Word(2))},
		{"sysvsem", string(bsd.Word(0))},
		{"persist", string(bsd.Word(1))},
	} {
		if got := f.param(name, c.param, 4); got != c.want {
			t.Errorf("%s: %q, want %q", c.param, got, c.want)
		}
	}
	for param, want := range map[string]string{"osrelease": "14.9-TEST", "host.hostname": "inside", "path": f.root} {
		if got := unix.ByteSliceToString([]byte(f.param(name, param, 1024))); got != want {
			t.Errorf("%s: %q, want %q", param, got, want)
		}
	}
	if f.m.Features()["jail.meta"] == "1" {
		if got := unix.ByteSliceToString([]byte(f.param(name, "meta", 4096))); got != "alloc=a1" {
			t.Errorf("meta %q", got)
		}
	}
}

func TestParamErrors(t *testing.T) {
	f := setup(t)
	for param, c := range map[string]struct {
		value, say string
		is         error
	}{
		"allow.nothing": {"true", "allow.nothing", errUnknownParam},
		"securelevel":   {"high", "securelevel", nil},
		"ip4.addr":      {"192.0.2.77", "", unix.EADDRNOTAVAIL},
	} {
		name := f.name()
		_, err := f.m.Create(t.Context(), Spec{Name: name, Root: f.root, Params: map[string]string{param: c.value}})
		if param == "ip4.addr" && err == nil { // the kernel takes an address that is to come
			if err := f.m.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), name) || c.is != nil &&
			!errors.Is(err, c.is) {
			t.Errorf("%s: %v", param, err)
		}
		if _, err := jailGet(name, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: a jail is left: %v", param, err)
		}
	}
	_, err := f.m.Create(t.Context(), Spec{Name: f.name(), Root: f.root + "/nothere"})
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), f.root+"/nothere") {
		t.Errorf("%v", err)
	}
	_, err = f.m.Create(t.Context(), Spec{Name: f.name(), Root: f.root,
		Params: map[string]string{"vnet": "new", "ip4.addr": "127.0.0.1"}})
	if !errors.As(err, &e) || e.Err != unix.EINVAL || e.Message == "" {
		t.Errorf("%v", err)
	}
}

func TestRemovedBehindOurBack(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-term")
	f.ready(r)
	if err := removeBehindBack(f.m, name); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-f.m.Removed():
		if got != name {
			t.Errorf("%q", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody noticed")
	}
	if e := f.exit(pid); e.Signal != int(syscall.SIGKILL) || e.OOM {
		t.Errorf("%+v", e)
	}
	if _, err := f.m.Exec(t.Context(), name, Process{Args: []string{"/bin/prog"}, Dir: "/"}); !errors.Is(err,
		ErrNotFound) {
		t.Errorf("exec in it: %v", err)
	}
}

// An older kernel has no event for it.
func TestRemovalFoundByScan(t *testing.T) {
	f := setup(t)
	name := f.name()
	c, r := f.host("scanned", name)
	b, err := io.ReadAll(r)
	if err != nil || string(b) != name+"\n" {
		t.Errorf("%q %v", b, err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLimitsWithoutRacct(t *testing.T) {
	f := setup(t)
	c, r := f.host("limited", f.name())
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, b)
	}
	files, exit, _ := strings.Cut(string(b), "\n")
	var e Exit
	if err := json.Unmarshal([]byte(exit), &e); err != nil || !e.OOM || !strings.Contains(e.Reason, "64 MiB") ||
		files != "true" {
		t.Errorf("%s: %v", b, err)
	}
}

func TestRulesGoWithTheJail(t *testing.T) {
	f := setup(t)
	if !f.m.racct {
		t.Skip("this host's kernel does not limit resources (kern.racct.enable=1 in /boot/loader.conf)")
	}
	name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 1 << 30, CPUPercent: 50, MaxProcs: 100, OpenFiles: 1000,
		CPUSet: "0"}})
	rules, err := rctl(unix.SYS_RCTL_GET_RULES, "jail:"+name)
	if err != nil || strings.Count(rules, name) != 4 || strings.Contains(rules, "openfiles") {
		t.Errorf("%q %v", rules, err)
	}
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if rules, err := rctl(unix.SYS_RCTL_GET_RULES, "jail:"+name); err != nil || rules != "" {
		t.Errorf("left: %q %v", rules, err)
	}
}

func TestUnenforced(t *testing.T) {
	all := Limits{MemoryBytes: 1, CPUPercent: 1, MaxProcs: 1, OpenFiles: 1}
	if got := (&Manager{racct: true}).Unenforced(all); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if got := (&Manager{}).Unenforced(all); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if got := (&Manager{}).Unenforced(Limits{CPUShares: 5}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestLinuxProgram(t *testing.T) {
	f := setup(t)
	s := Spec{Name: f.name(), Root: f.root, Linux: true}
	_, err := f.m.Create(t.Context(), s)
	if hasLinux() != (err == nil) || err != nil && !strings.Contains(err.Error(), "linux64") {
		t.Errorf("%v", err)
	}
	if err := f.m.Remove(t.Context(), s.Name); err != nil {
		t.Error(err)
	}
}

func TestMaxProcs(t *testing.T) {
	f := setup(t)
	if !f.m.racct {
		t.Skip("this host's kernel does not limit resources (kern.racct.enable=1 in /boot/loader.conf)")
	}
	name := f.create(Limits{MaxProcs: 3})
	pid, _ := f.start(name, "/bin/prog", "inside-stubborn") // wants five children
	if e := f.exit(pid); e.Code != 99 {
		t.Errorf("%+v", e)
	}
}

func TestCPUSetOfHost(t *testing.T) {
	f := setup(t)
	_, err := f.m.Create(t.Context(), Spec{Name: f.name(), Root: f.root, Limits: Limits{CPUSet: "1000"}})
	if err == nil || !strings.Contains(err.Error(), "cpuset 1000") {
		t.Errorf("a processor that is not there: %v", err)
	}
}

func TestMissingDirectory(t *testing.T) {
	f := setup(t)
	p, _ := f.process("/bin/prog", "inside-env")
	p.Dir = "/nowhere"
	if _, err := f.m.Start(t.Context(), f.create(Limits{}), p); err == nil || errors.Is(err, ErrNoProgram) ||
		!strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("%v", err)
	}
}

// No child of a jail stays a zombie, and the jail's own are gone with it.
func TestNothingIsLeft(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-stubborn")
	f.ready(r)
	s, err := f.m.find("find", name)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := f.m.processesOf(s.jid)
	if err != nil || len(pids) != 6 || pids[pid] != s.jid {
		t.Errorf("%v %v", pids, err)
	}
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if pids, err := f.m.processesOf(s.jid); err != nil || len(pids) != 0 {
		t.Errorf("left: %v %v", pids, err)
	}
	for tries := 0; ; tries++ { // the kernel lets go of the last reference a little later
		_, msg, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "jid", Value: bsd.Word(s.jid)}}, jailDying)
		if errors.Is(err, unix.ENOENT) {
			return
		}
		if tries == 1000 {
			t.Fatalf("a dying jail is left: %s %v", msg, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
