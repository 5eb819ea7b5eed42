package jail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// owner makes a jail that owns a network stack, as package network does.
func (f *fixture) owner() string {
	f.Helper()
	name := fmt.Sprintf("%stest-%d-%d", ownerPrefix, os.Getpid(), serial.Add(1))
	jid, message, err := bsd.Call(unix.SYS_JAIL_SET, []bsd.Param{bsd.Text("name", name), bsd.Text("path", "/"),
		{Name: "persist"}, {Name: "vnet", Value: bsd.Word(1)}, {Name: "enforce_statfs", Value: bsd.Word(0)}}, jailCreate)
	if err != nil {
		f.Skip(message, err)
	}
	f.Cleanup(func() {
		if err := jailRemove(jid); err != nil {
			f.Error(err)
		}
	})
	return name
}

func (f *fixture) rules(of string) string {
	f.Helper()
	out, err := rctl(unix.SYS_RCTL_GET_RULES, "jail:"+of)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		f.Fatal(err)
	}
	return out
}

// forgotten is as for a daemon that comes after a crash.
func (f *fixture) forgotten(name string) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	delete(f.m.jails, name)
}

func TestStack(t *testing.T) {
	f := setup(t)
	owner := f.owner()
	name := f.createSpec(Spec{Stack: owner, Limits: Limits{MemoryBytes: 256 << 20, MaxProcs: 50},
		Params: map[string]string{"ip4": "disable"}})
	kernel := owner + "." + name
	if _, err := jailGet(kernel, 0); err != nil {
		t.Error(err)
	}
	if racct := f.m.racct; racct && !strings.Contains(f.rules(kernel), "maxproc") {
		t.Errorf("rules: %s", f.rules(kernel))
	}
	pid, r := f.start(name, "prog", "inside-term")
	f.ready(r)
	for _, again := range []bool{false, true} {
		if again {
			f.forgotten(name)
		}
		list, err := f.m.List()
		if err != nil || !slices.ContainsFunc(list, func(i Info) bool { return i.Name == name && i.Root == f.root }) {
			t.Errorf("list: %+v %v", list, err)
		}
		p, out := f.process("prog", "inside-env")
		if got, e := f.output(name, p, out); e.Code != 0 || got != "hello inside /tmp 0\n" {
			t.Errorf("exec: %q %+v", got, e)
		}
		u, err := f.m.Stats()
		if err != nil || len(u[name].Procs) != 1 || u[name].Procs[0].PID != pid {
			t.Errorf("stats: %+v %v", u[name], err)
		}
	}
	if err := f.m.Signal(name, pid, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := f.exit(pid); e.Code != 3 {
		t.Errorf("%+v", e)
	}
	f.m.WaitEmpty(name)
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	if left := f.rules(kernel); f.m.racct && left != "" {
		t.Errorf("rules are left: %s", left)
	}
	if notes, err := f.m.Notes(); err != nil || slices.Contains(notes, name) {
		t.Errorf("notes are left: %v %v", notes, err)
	}
}

// The jail of a crashed daemon can be gone before the next one looks: the rules have its whole name.
func TestStackIsForgottenByItsNotes(t *testing.T) {
	f := setup(t)
	if !f.m.racct {
		t.Skip("this host's kernel does not limit resources")
	}
	owner := f.owner()
	name := f.createSpec(Spec{Stack: owner, Limits: Limits{MaxProcs: 50}})
	f.forgotten(name)
	i, err := findJail(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(jailRemove(i.JID), f.m.Remove(t.Context(), name)); err != nil {
		t.Error(err)
	}
	if left := f.rules(owner + "." + name); left != "" {
		t.Errorf("rules are left: %s", left)
	}
}

func TestStackOfWideParameters(t *testing.T) {
	f := setup(t)
	owner := f.owner()
	first := f.createSpec(Spec{Stack: owner})
	p, r := f.process("/bin/prog", "inside-raw")
	if out, _ := f.output(first, p, r); out == "<nil>\n" {
		t.Error("a raw socket was opened without permission")
	}
	wide := map[string]string{"allow.raw_sockets": "true", "allow.mlock": "true", "sysvshm": "new", "sysvsem": "inherit",
		"sysvmsg": "new", "children.max": "2", "enforce_statfs": "1", "allow.mount": "true", "allow.chflags": "true",
		"allow.set_hostname": "false", "securelevel": "1", "host": "new"}
	second := f.createSpec(Spec{Stack: owner, Params: wide})
	p, r = f.process("/bin/prog", "inside-raw")
	if out, _ := f.output(second, p, r); out != "<nil>\n" {
		t.Errorf("a raw socket: %s", out)
	}
	p, r = f.process("/bin/prog", "inside-raw")
	if out, _ := f.output(first, p, r); out == "<nil>\n" {
		t.Error("a neighbour's permission has become a jail's own")
	}
	want := map[string]string{"allow.raw_sockets": "1", "sysvshm": "1", "sysvsem": "2", "children.max": "2",
		"enforce_statfs": "1", "allow.set_hostname": "0", "securelevel": "1", "ip4": "2", "ip6": "2", "vnet": "2"}
	for name, value := range want {
		i, err := findJail(second)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("jls", "-j", fmt.Sprint(i.JID), "-n", name).CombinedOutput()
		_, got, _ := strings.Cut(strings.TrimSpace(string(out)), "=")
		words := map[string]string{"disable": "0", "new": "1", "inherit": "2", "": "1"}
		if w, is := words[got]; is {
			got = w
			if strings.Contains(string(out), ".no") {
				got = "0"
			}
		}
		if err != nil || got != value {
			t.Errorf("%s: %s, want %s (%v)", name, out, value, err)
		}
	}
}

func TestStackThatIsNone(t *testing.T) {
	f := setup(t)
	owner := f.owner()
	for _, c := range []struct {
		stack, word string
		params      map[string]string
	}{
		{"fjnet-nobody", "not found", nil},
		{"fj-other", "not the name", nil},
		{owner + ".x", "not the name", nil},
		{"fjnet-" + strings.Repeat("x", 240), "not the name", nil},
		{owner, "vnet", map[string]string{"vnet": "new"}},
		{owner, "ip4.addr", map[string]string{"ip4.addr": "10.0.0.1"}},
		{owner, "ip6.addr", map[string]string{"ip6.addr": "fd00::1"}},
	} {
		s := Spec{Name: f.name(), Root: f.root, Stack: c.stack, Params: c.params}
		if _, err := f.m.Create(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, stacks := range [][2]string{{"", owner}, {owner, ""}, {owner, f.owner()}, {owner, owner}} {
		name := f.createSpec(Spec{Stack: stacks[0]})
		_, err := f.m.Create(t.Context(), Spec{Name: name, Root: f.root, Stack: stacks[1]})
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second jail of that name, %q: %v", stacks, err)
		}
	}
}

func TestStackRemovedBehindBack(t *testing.T) {
	f := setup(t)
	owner := f.owner()
	name := f.createSpec(Spec{Stack: owner})
	pid, r := f.start(name, "prog", "inside-term")
	f.ready(r)
	i, err := jailGet(owner, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := jailRemove(i.JID); err != nil {
		t.Fatal(err)
	}
	for got := range f.m.Removed() {
		if got == name {
			break
		}
	}
	if e := f.exit(pid); e.Signal != int(unix.SIGKILL) {
		t.Errorf("%+v", e)
	}
	if err := f.m.Remove(context.Background(), name); err != nil {
		t.Error(err)
	}
}

func TestNestedBelowAStack(t *testing.T) {
	f := setup(t)
	name := f.createSpec(Spec{Stack: f.owner(), Params: map[string]string{"children.max": "1"}})
	pid, r := f.start(name, "prog", "inside-nest")
	f.ready(r)
	f.forgotten(name)
	if _, err := f.m.find("look at", name); err != nil {
		t.Fatal(err)
	}
	u, err := f.m.Stats()
	if err != nil || len(u[name].Procs) != 1 {
		t.Errorf("%+v %v", u[name], err)
	}
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process lives: %v", err)
	}
}

func TestOurNames(t *testing.T) {
	for kernel, want := range map[string]string{"fj-a": "fj-a", "fjnet-a.fj-b": "fj-b", "fjnet-a": "", "fj-a.fj-b": "",
		"fjnet-a.fj-b.nest": "", "fj-a.nest": "", "www": "", "www.fj-a": "", "fjnet-a.www": ""} {
		if name, ours := ourName(kernel); ours != (want != "") || ours && name != want {
			t.Errorf("%s: %q %v", kernel, name, ours)
		}
	}
}
