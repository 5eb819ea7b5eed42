package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What cuts running tasks off is told once, and once when it is over; what can be put back is.
func TestLinksAreWatched(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(bridged(), alias())
	tells := func(want ...string) {
		t.Helper()
		m.lookAtLinks(t.Context())
		m.lookAtLinks(t.Context()) // is silent
		if len(*told) != len(want) {
			t.Fatalf("told %q, want %q", *told, want)
		}
		for i, w := range want {
			if !strings.Contains((*told)[i], w) {
				t.Errorf("told %q, want %q", (*told)[i], w)
			}
		}
		*told = nil
	}
	problem := func() string { return m.List()[0].Problem }
	f.missing["lan"] = errFake
	tells() // nobody uses it
	delete(f.missing, "lan")
	for _, key := range []string{"a", "b"} {
		if err := m.Publish(t.Context(), taskOf(key, reserve(t, m, key, "lan"))); err != nil {
			t.Fatal(err)
		}
	}
	tells()
	f.missing["lan"] = errFake
	tells(`network "lan" is gone from its tasks (2 tasks): ` + errFake.Error())
	if p := problem(); !strings.Contains(p, "gone from its tasks (2 tasks)") {
		t.Errorf("listed: %q", p)
	}
	delete(f.missing, "lan")
	cut := stackKey(m.endpoints["a"])
	f.apart[cut] = true
	tells(`network "lan" is back (2 tasks)`)
	if !slices.Contains(f.log, "rejoin "+cut) || problem() != "" {
		t.Errorf("%q, listed: %q", f.log, problem())
	}
	f.unknown[cut], f.log = true, nil
	tells()
	if !slices.Equal(f.log, []string{"rejoin " + cut}) {
		t.Errorf("forgotten: %q", f.log)
	}
	f.apart[cut] = true // between two looks
	tells("was taken away on the host (2 tasks): it is back")
	f.apart[cut], f.failures["rejoin"] = true, errFake
	tells("is gone from its tasks (2 tasks): " + errFake.Error())
	if err := m.Withdraw(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	tells(`network "lan" is back (1 task)`)
	f.missing["lan"] = errFake
	tells("gone from its tasks (1 task)")
	if err := m.Withdraw(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	tells()
	if len(m.severed) > 0 {
		t.Errorf("still %v", m.severed)
	}
}

// Tasks of alias are watched from Attach or Adopt to Detach, though nothing of them is published.
func TestAliasesAreWatched(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(alias())
	e := reserve(t, m, "a", alias().Name)
	f.apart[stackKey(e)] = true
	rejoined := func() bool {
		m.lookAtLinks(t.Context())
		return slices.Contains(f.log, "rejoin "+stackKey(e))
	}
	if rejoined() {
		t.Error("it is not attached yet")
	}
	if err := m.Attach(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if !rejoined() || len(*told) != 1 || !strings.Contains((*told)[0], "(1 task): it is back") {
		t.Errorf("%q, told %q", f.log, *told)
	}
	next, _ := f.manager(alias())
	if err := next.Adopt("a", e); err != nil || len(next.users()) != 1 {
		t.Errorf("the next daemon: %+v %v", next.users(), err)
	}
	if err := m.Detach(t.Context(), e); err != nil || m.runs(e) {
		t.Error("it is detached", err)
	}
}

// What ended meanwhile is not connected again, and what is cut off at once again is told once.
func TestEndedIsNotRejoined(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(bridged())
	e := reserve(t, m, "a", "lan")
	if err := m.rejoinOne(t.Context(), bridged(), e); err != nil || len(f.log) > 0 {
		t.Error(err, f.log)
	}
	if err := m.Publish(t.Context(), taskOf("a", e)); err != nil {
		t.Fatal(err)
	}
	f.apart[stackKey(e)], f.stubborn = true, true
	for range 3 {
		m.lookAtLinks(t.Context())
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "taken away again at once ("+e.Link+")") {
		t.Errorf("told %q", *told)
	}
}

// A network by another name is not used beside the tasks that have it by the old one, and what tasks keep of a network
// that was changed is told.
func TestChangesBesideRunningTasks(t *testing.T) {
	f := newFake(t)
	before, _ := f.manager(nat(), bridged(), alias())
	web, lan, pub := reserve(t, before, "a", "web"), reserve(t, before, "b", "lan"), reserve(t, before, "c", "pub")
	renamed, changed, moved := nat(), bridged(), alias()
	renamed.Name, moved.Name = "www", "public"
	changed.MTU, changed.Isolate, changed.HostAccess = 1400, true, []Port{{"tcp", 22, 1}}
	m, told := f.manager(renamed, changed, moved)
	for holder, e := range map[string]Endpoint{"a": web, "b": lan, "c": pub} {
		if err := m.Adopt(holder, e); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.Reserve("new", Request{Network: "www"})
	wantError(t, err, `overlaps`, `network "web", which tasks still have as it was`, "freejail networks web")
	if p := m.List()[0].Problem; !strings.Contains(p, "still have") {
		t.Errorf("listed: %q", p)
	}
	reserve(t, m, "beside", "public") // an address of its own
	m.tellOutlived()
	want := `network: network "lan": mtu, isolate changed in the host configuration`
	if len(*told) != 3 || !strings.Contains((*told)[0], want) {
		t.Errorf("told %q", *told)
	}
	m.Release("a")
	reserve(t, m, "new", "www")
}

// Other networks are judged beside those that running tasks have, before an upgrade.
func TestBesideRunningTasks(t *testing.T) {
	m, _ := newFake(t).manager(nat(), bridged())
	reserve(t, m, "a", "web")
	smaller, renamed := nat(), nat()
	smaller.Subnet6 = netip.MustParsePrefix("fd00:99::/64")
	renamed.Name = "www"
	if err := m.Beside([]Network{nat(), bridged()}); err != nil {
		t.Error(err)
	}
	wantError(t, m.Beside([]Network{smaller}), `network "web" has changed`, "a uses it as it was", "freejail networks web")
	wantError(t, m.Beside([]Network{renamed}), "which tasks still have as it was")
}

// What could not be used at the start is told of when it can be.
func TestUsableAgain(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(bridged())
	f.missing["lan"] = errFake
	m.Await("lan")
	if m.tellUsable(); len(*told) > 0 {
		t.Errorf("told %q", *told)
	}
	delete(f.missing, "lan")
	m.tellUsable()
	if m.tellUsable(); len(*told) != 1 || !strings.Contains((*told)[0], `network "lan" can be used now`) {
		t.Errorf("told %q", *told)
	}
}

// Who asks for the state of a network is told what is, also just after it was usable, and starts are refused then.
func TestListedAsItIs(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(bridged())
	reserve(t, m, "a", "lan")
	f.missing["lan"] = errFake
	if p := m.List()[0].Problem; !strings.Contains(p, errFake.Error()) {
		t.Errorf("listed: %q", p)
	}
	_, err := m.Reserve("b", Request{Network: "lan"})
	wantError(t, err, errFake.Error())
}
