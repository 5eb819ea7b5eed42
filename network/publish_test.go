package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func taskOf(key string, e Endpoint, published ...Publication) Task {
	return Task{Key: key, Endpoint: e, Published: published}
}

// A task's end is in one order, and nothing of it is left.
func TestOrder(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	e := reserve(t, m, "a", "web")
	if err := lifeOf(t, m, taskOf("a", e)); err != nil {
		t.Fatal(err)
	}
	stack := stackKey(e)
	want := []string{"attach " + stack, "resolve web", "load 1", "load 0", "detach " + stack}
	if !slices.Equal(f.log, want) {
		t.Errorf("%q, want %q", f.log, want)
	}
	if m.pool.held[e.Addr4] != "a" {
		t.Error("the address is released before its holder says so")
	}
	m.Release("a")
	m.Release("a")
	if m.pool.held[e.Addr4] != "" || len(m.endpoints) > 0 {
		t.Error("not released")
	}
	// Each step back can be done again.
	if err := errors.Join(m.Withdraw(t.Context(), "a"), m.Detach(t.Context(), e)); err != nil {
		t.Error(err)
	}
}

// What is asked for while a load runs is one load more, with all of it.
func TestLoadsAreGathered(t *testing.T) {
	f := newFake(t)
	n := nat()
	n.Pool4.Last, n.Pool6.Last = addr("10.88.0.250"), addr("fd00:88::250")
	m, _ := f.manager(n)
	var others, all sync.WaitGroup
	publish := func(key string) {
		e, err := m.Reserve(key, Request{Network: "web"})
		if err == nil {
			err = m.Publish(t.Context(), taskOf(key, e))
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if err != nil || !slices.ContainsFunc(f.rules, func(t Task) bool { return t.Key == key }) {
			t.Errorf("%s is published, and not in the rules: %v", key, err)
		}
	}
	begun := make(chan struct{})
	f.during = func(call string) {
		if call == "load" {
			f.during = nil
			close(begun)
			others.Wait()
		}
	}
	others.Add(1)
	all.Go(func() { publish("first") })
	<-begun
	for i := range 100 {
		all.Go(func() { publish(fmt.Sprint(i)) })
	}
	for waiting := 0; waiting < 100; {
		m.rules.mu.Lock()
		waiting = len(m.rules.waiting)
		m.rules.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	others.Done()
	all.Wait()
	if f.loads != 2 || len(f.rules) != 101 || len(f.nets) != 1 {
		t.Errorf("%d loads of 101 changes: rules of %d tasks, %d networks", f.loads, len(f.rules), len(f.nets))
	}
}

// Rules that somebody flushed are loaded again, and an event tells; what cannot be loaded is told once.
func TestLostRules(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(nat())
	watch := func(before string) string { return m.watch(t.Context(), before) }
	f.flush = true
	if watch("") != "" || len(*told) > 0 || f.loads > 0 {
		t.Errorf("without a task: %q", *told)
	}
	e := reserve(t, m, "a", "web")
	if err := m.Publish(t.Context(), taskOf("a", e)); err != nil {
		t.Fatal(err)
	}
	watch("")
	if f.loads != 1 || len(*told) != 0 {
		t.Errorf("%d loads, told %q", f.loads, *told)
	}
	f.flush = true
	watch("")
	if f.flush || f.loads != 2 || len(*told) != 1 || !strings.Contains((*told)[0], "loaded again") {
		t.Errorf("%d loads, told %q", f.loads, *told)
	}
	f.flush, f.failures["load"] = true, errFake
	last := watch(watch(""))
	if len(*told) != 2 || last == "" || !strings.Contains((*told)[1], errFake.Error()) ||
		!strings.Contains((*told)[1], "nothing may keep tasks of nat networks from the host's services") {
		t.Errorf("of a failure: %q, told %q", last, *told)
	}
	delete(f.failures, "load")
	if watch(last) != "" || f.flush || len(*told) != 3 || !strings.Contains((*told)[2], "in force again") {
		t.Errorf("told %q", *told)
	}
	f.failures["loaded"] = errNoFilter
	if last = watch(""); last == "" || len(*told) != 4 {
		t.Errorf("of no filter: %q", *told)
	}
	delete(f.failures, "loaded")
	if watch(last) != "" || len(*told) != 5 {
		t.Errorf("told %q", *told)
	}
}

// Run watches by itself.
func TestRun(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(nat())
	if err := m.Publish(t.Context(), taskOf("a", reserve(t, m, "a", "web"))); err != nil {
		t.Fatal(err)
	}
	f.flush = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	m.cfg.Tell = func(_, message string) { *told = append(*told, message); cancel() }
	m.watchEvery = time.Millisecond
	go func() { m.Run(ctx); close(done) }()
	<-done
	if f.flush || len(*told) != 1 {
		t.Errorf("told %q", *told)
	}
}

// A host without a packet filter has networks of operators, and none that translates.
func TestNoFilter(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(nat(), bridged(), alias())
	for holder, network := range map[string]string{"b": "lan", "c": "pub"} {
		f.failures["load"], f.failures["loaded"] = errNoFilter, errNoFilter
		e := reserve(t, m, holder, network)
		if err := m.Publish(t.Context(), taskOf(holder, e)); err != nil {
			t.Error(err)
		}
		m.watch(t.Context(), "")
		if err := m.Withdraw(t.Context(), holder); err != nil || len(*told) > 0 {
			t.Error(err, *told)
		}
	}
	e := reserve(t, m, "a", "web")
	if err := m.Publish(t.Context(), taskOf("a", e)); !errors.Is(err, errNoFilter) {
		t.Error(err)
	}
	if err := m.Withdraw(t.Context(), "a"); err != nil || len(m.tasks) > 0 {
		t.Error(err)
	}
	f.failures["filter"] = errors.New("pf is not enabled: run this")
	m.usable.seen = map[string]time.Time{}
	_, err := m.Reserve("x", Request{Network: "web"})
	wantError(t, err, "freejail.hcl:3", `network "web": pf is not enabled: run this`)
	reserve(t, m, "y", "lan")
	if err := m.Check(); err != nil {
		t.Errorf("the filter may come later: %v", err)
	}
	if s := m.List(); !strings.Contains(s[0].Problem, "run this") || s[1].Problem != "" {
		t.Errorf("%+v", s)
	}
}

// What fails is told, stays known, and goes the next time.
func TestFailures(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	e := reserve(t, m, "a", "web")
	task := taskOf("a", e, Publication{Port: Port{"tcp", 80, 1}, To: 8080})
	f.others[task.Published[0]] = "nginx"
	wantError(t, m.Publish(t.Context(), task), "80 is taken by nginx")
	if len(m.tasks)+f.loads > 0 {
		t.Error("rules of ports that are not held")
	}
	clear(f.others)
	steps := map[string]func() error{
		"attach": func() error { return m.Attach(t.Context(), e) },
		"load":   func() error { return m.Publish(t.Context(), task) },
		"detach": func() error { return m.Detach(t.Context(), e) },
	}
	for _, call := range []string{"attach", "load", "detach"} {
		f.failures[call] = errFake
		if err := steps[call](); !errors.Is(err, errFake) {
			t.Errorf("%s: %v", call, err)
		}
		delete(f.failures, call)
		if err := steps[call](); err != nil {
			t.Errorf("%s again: %v", call, err)
		}
	}
	f.failures["load"] = errFake
	for range 2 { // the rules may still lead to the address
		if err := m.Withdraw(t.Context(), "a"); !errors.Is(err, errFake) {
			t.Error(err)
		}
	}
	if len(f.held) != 1 {
		t.Error("a port is let go that rules may lead to the task still")
	}
	delete(f.failures, "load")
	if err := m.Withdraw(t.Context(), "a"); err != nil || len(f.rules)+len(f.held) > 0 {
		t.Error(err, f.rules, f.held)
	}
}

// Who waits for a load that hangs waits no longer than its context lasts.
func TestLoadHangs(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	hangs, loading := make(chan struct{}), make(chan struct{}, 1)
	f.during = func(call string) {
		if call == "load" {
			loading <- struct{}{}
			<-hangs
		}
	}
	e := reserve(t, m, "a", "web")
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-loading; cancel() }()
	if err := m.Publish(ctx, taskOf("a", e)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hangs)
	f.mu.Lock()
	f.during = nil
	f.mu.Unlock()
}

// A daemon takes away what no record has, keeps what one has, and leads its ports to it again.
func TestSweep(t *testing.T) {
	f := newFake(t)
	before, _ := f.manager(nat(), alias())
	var tasks []Task
	for _, holder := range []string{"alive", "lost", "adopted"} {
		e := reserve(t, before, holder, "web")
		task := taskOf(holder, e, Publication{Port: Port{"tcp", 80, 1}, To: 8080})
		if err := errors.Join(before.Attach(t.Context(), e), before.Publish(t.Context(), task)); err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, task)
	}
	public := map[string]Endpoint{}
	for _, holder := range []string{"its", "stray"} {
		public[holder] = reserve(t, before, holder, "pub")
		if err := before.Attach(t.Context(), public[holder]); err != nil {
			t.Fatal(err)
		}
	}
	f.bridges["fj-old"] = Network{Name: "old", Mode: NAT}
	clear(f.held)
	f.log, f.rules = nil, nil
	m, _ := f.manager(nat(), alias())
	for _, holder := range []int{0, 2} {
		if err := m.Adopt(tasks[holder].Key, tasks[holder].Endpoint); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(m.Adopt("its", public["its"]), m.Sweep(t.Context(), tasks[:1])); err != nil {
		t.Fatal(err)
	}
	if len(f.made) != 3 || f.made[stackKey(public["its"])].Mode != Alias {
		t.Errorf("left: %v", f.made)
	}
	if len(f.rules) != 1 || f.rules[0].Key != "alive" || len(f.held) != 1 || len(f.bridges) != 1 {
		t.Errorf("rules %v, ports %v, bridges %v", f.rules, f.held, f.bridges)
	}
	slices.Sort(f.log[2:])
	want := []string{"resolve web", "load 1", "detach " + stackKey(public["stray"]), "detach fjnet-lost"}
	if !slices.Equal(f.log, want) {
		t.Errorf("%q, want %q", f.log, want)
	}
	if err := m.Sweep(t.Context(), nil); err != nil || len(f.made) != 3 {
		t.Errorf("%v, %v are left", err, f.made)
	}
}

// A sweep goes on where something fails.
func TestSweepGoesOn(t *testing.T) {
	f := newFake(t)
	before, _ := f.manager(nat())
	a, b := reserve(t, before, "a", "web"), reserve(t, before, "b", "web")
	if err := errors.Join(before.Attach(t.Context(), a), before.Attach(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	m, told := f.manager(nat())
	task := taskOf("b", b, Publication{Port: Port{"tcp", 80, 1}, To: 8080})
	f.failures["load"], f.others[task.Published[0]] = errFake, "nginx"
	err := errors.Join(m.Adopt("b", b), m.Sweep(t.Context(), []Task{task}))
	wantError(t, err, errFake.Error())
	if len(f.made) != 1 || f.made[stackKey(b)].Stack == "" {
		t.Errorf("left: %v", f.made)
	}
	m.holdAgain(t.Context())
	if len(f.held) != 0 || !slices.ContainsFunc(*told, func(s string) bool {
		return strings.Contains(s, "published ports of b are not held: ")
	}) {
		t.Errorf("a port that another program has is held, or nobody is told: %q", *told)
	}
	want := []string{"published ports of b are not held: port 80 is taken by nginx"}
	if list := m.List(); !slices.Equal(list[0].Unheld, want) || strings.Contains(err.Error(), "nginx") {
		t.Errorf("unheld: %q; the sweep: %v", list[0].Unheld, err)
	}
	delete(f.others, task.Published[0])
	m.holdAgain(t.Context())
	if list := m.List(); len(list[0].Unheld) > 0 {
		t.Errorf("unheld after all: %q", list[0].Unheld)
	}
	if _, ok := f.held["b"]; !ok || !slices.Contains(*told, "network: published ports of b are held again") {
		t.Errorf("held: %v, told: %q", f.held, *told)
	}
}

// A network that went from the configuration, or changed there, is what its tasks have until they end.
func TestRemovedNetwork(t *testing.T) {
	f := newFake(t)
	before, _ := f.manager(nat())
	e := reserve(t, before, "a", "web")
	if err := before.Attach(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	changed := nat()
	changed.Subnet4, changed.Gateway4, changed.Pool4 =
		prefix("10.99.0.0/24"), addr("10.99.0.1"), span("10.99.0.2", "10.99.0.9")
	for name, now := range map[string][]Network{"removed": nil, "changed": {changed}} {
		m, told := f.manager(now...)
		task := taskOf("a", e, Publication{Port: Port{"tcp", 80, 1}, To: 8080})
		if err := errors.Join(m.Adopt("a", e), m.Sweep(t.Context(), []Task{task})); err != nil {
			t.Fatal(name, err)
		}
		if len(f.nets) != 1 || f.nets[0].Subnet4 != nat().Subnet4 || len(f.rules) != 1 || len(f.bridges) != 1 {
			t.Errorf("%s: rules of %v", name, f.nets)
		}
		if len(*told) != 1 || !strings.Contains((*told)[0], `"web"`) {
			t.Errorf("%s: told %q", name, *told)
		}
		if again := reserve2(m, "a"); again != nil && name == "changed" {
			t.Errorf("%s: its own endpoint: %v", name, again)
		}
		wantError(t, reserve2(m, "b"), `network "web"`)
		if s := m.List(); len(s) != 1 || s[0].Problem == "" || s[0].Used != 1 {
			t.Errorf("%s: %+v", name, s)
		}
		if err := errors.Join(m.Attach(t.Context(), e), m.Withdraw(t.Context(), "a")); err != nil {
			t.Error(name, err)
		}
		if len(f.nets) != len(now) || len(now) > 0 && f.nets[0].Subnet4 != changed.Subnet4 {
			t.Errorf("%s: rules without a task are of %v", name, f.nets)
		}
	}
	m, _ := f.manager()
	if err := errors.Join(m.Adopt("a", e), m.Detach(t.Context(), e)); err != nil {
		t.Fatal(err)
	}
	m.Release("a")
	if len(f.bridges)+len(f.made) > 0 {
		t.Errorf("left: %v %v", f.bridges, f.made)
	}
	m, _ = f.manager(changed)
	if e := reserve(t, m, "b", "web"); e.Addr4 != addr("10.99.0.2") {
		t.Errorf("%+v", e)
	}
}

func reserve2(m *Manager, holder string) error {
	_, err := m.Reserve(holder, Request{"web", []netip.Addr(nil)})
	return err
}

// Two daemons of one host try other links for tasks of one name.
func TestTwoDaemons(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	other, _ := f.manager(nat())
	other.cfg.StateDir = "/elsewhere"
	if a, b := reserve(t, m, "a", "web"), reserve(t, other, "a", "web"); a.Link == b.Link {
		t.Errorf("both have %s", a.Link)
	}
}

// A daemon that ends takes its bridges and rules along, unless a task needs them.
func TestClose(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	e := reserve(t, m, "a", "web")
	task := Task{Key: "a", Endpoint: e, Declared: []Port{{"tcp", 80, 1}}}
	if err := errors.Join(m.Attach(t.Context(), e), m.Publish(t.Context(), task), m.Close()); err != nil {
		t.Fatal(err)
	}
	if len(f.bridges) != 1 || len(f.rules) != 1 {
		t.Errorf("a task runs on without: %v, %v", f.bridges, f.rules)
	}
	if err := errors.Join(m.Withdraw(t.Context(), "a"), m.Detach(t.Context(), e)); err != nil {
		t.Fatal(err)
	}
	m.Release("a")
	f.failures["load"] = fmt.Errorf("it is not there: %w", errNoFilter)
	if err := m.Close(); err != nil || len(f.bridges) != 0 {
		t.Errorf("bridges %v: %v", f.bridges, err)
	}
	delete(f.failures, "load")
	if err := m.Close(); err != nil || len(f.nets) != 0 {
		t.Errorf("rules of %v: %v", f.nets, err)
	}
}

func TestServicesOfGatewaysAreNotPublished(t *testing.T) {
	f := newFake(t)
	n := nat()
	n.HostAccess = []Port{{Protocol: "udp", First: 53}, {Protocol: "tcp", First: 5432, Count: 2}}
	m, _ := f.manager(n)
	publish := func(at netip.Addr, protocol string, first, count uint16) error {
		return m.Publish(t.Context(), Task{Key: "a", Endpoint: Endpoint{Network: "web", Mode: NAT, As: n},
			Published: []Publication{{At: at, Port: Port{Protocol: protocol, First: first, Count: count}, To: 80}}})
	}
	for _, at := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if err := publish(at, "tcp", 53, 1); err != nil {
			t.Error("not in host_access:", err)
		}
		for _, bad := range []error{publish(at, "udp", 53, 1), publish(at, "udp", 50, 9), publish(at, "tcp", 5433, 0)} {
			if bad == nil || !strings.Contains(bad.Error(), "gateway of network web") {
				t.Error(at, bad)
			}
		}
	}
	if err := publish(RangeOf(n.Subnet4).Last, "udp", 137, 1); err == nil || !strings.Contains(err.Error(), "published") {
		t.Error("broadcast:", err)
	}
	for _, at := range []netip.Addr{{}, netip.IPv4Unspecified(), addr("192.0.2.1")} {
		if err := publish(at, "udp", 53, 1); err != nil {
			t.Error(at, err)
		}
	}
	led := Task{Key: "b", Endpoint: Endpoint{Network: "lan", Mode: Bridged}, // by the daemon, not by rules
		Published: []Publication{{Port: Port{Protocol: "udp", First: 53}, To: 80}}}
	if err := m.Publish(t.Context(), led); err == nil || !strings.Contains(err.Error(), "gateway of network web") {
		t.Error("all addresses, and no rule:", err)
	}
}

// TestGatewaysAnswerFromTheStart has a bridge that an earlier daemon has left, and no task.
func TestGatewaysAnswerFromTheStart(t *testing.T) {
	f := newFake(t)
	m, told := f.manager(nat())
	bad := Task{Key: "bad", Endpoint: Endpoint{Network: "web", Mode: NAT, As: nat()}}
	if err := m.Sweep(t.Context(), []Task{bad}); err != nil || !slices.Contains(f.log, "resolve web") {
		t.Error(err, f.log)
	}
	f.failures["resolve"] = fmt.Errorf("10.88.0.1:53/udp: %w", syscall.EADDRINUSE)
	for range 2 {
		if err := m.Attach(t.Context(), Endpoint{Network: "web", Mode: NAT, As: nat(), Stack: "fjnet-a"}); err == nil {
			t.Error("a start although another program answers")
		}
	}
	if len(*told) != 1 || !strings.Contains((*told)[0], "10.88.0.1:53/udp") {
		t.Errorf("%q", *told)
	}
	f.failures["resolve"] = fmt.Errorf("10.88.0.1:53/udp: %w", syscall.EADDRNOTAVAIL)
	if err := m.Sweep(t.Context(), nil); err != nil {
		t.Error("the bridge is not there yet:", err)
	}
}
