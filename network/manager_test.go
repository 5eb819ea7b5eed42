package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func reserve(t *testing.T, m *Manager, holder, network string, fixed ...netip.Addr) Endpoint {
	t.Helper()
	e, err := m.Reserve(holder, Request{network, fixed})
	if err != nil {
		t.Fatalf("%s of %s: %v", holder, network, err)
	}
	return e
}

// wantError wants an error with each of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %q", err, w)
		}
	}
}

func TestReserve(t *testing.T) {
	m, _ := newFake(t).manager(nat(), alias(), bridged())
	e := reserve(t, m, "web.2", "web")
	if e.Stack != "fjnet-web+2" || e.Addr4 != addr("10.88.0.2") || e.Addr6 != addr("fd00:88::2") ||
		!strings.HasPrefix(e.MAC, "02:") || len(e.MAC) != 17 || e.Link == "" || e.As.Gateway4 != nat().Gateway4 {
		t.Errorf("of nat: %+v", e)
	}
	if again := reserve(t, m, "web.2", "web"); !again.same(e) {
		t.Errorf("again: %+v", again)
	}
	if e := reserve(t, m, "a", "pub"); e.Stack != "" || e.Link != "" || e.MAC != "" || e.Addr6.IsValid() ||
		e.Addr4 != addr("192.0.2.10") {
		t.Errorf("of alias: %+v", e)
	}
	if e := reserve(t, m, "b", "lan"); e.Addr4.IsValid() || e.Addr6 != addr("2001:db8::10") || e.MAC == "" {
		t.Errorf("of bridged: %+v", e)
	}
	if e := reserve(t, m, "c", "none"); e.Stack == "" || e.Link != "" || e.addrs() != nil {
		t.Errorf("of none: %+v", e)
	}
	if e := reserve(t, m, "d", "host"); m.JailStack(e) != "" || e.Mode != Host || e.addrs() != nil {
		t.Errorf("of host: %+v", e)
	}
	_, err := m.Reserve("e", Request{Network: "nope"})
	wantError(t, err, `"nope"`, "host, none, web, pub, lan")
}

// The last that is free is found, in whatever place, and then there is none.
func TestPoolFull(t *testing.T) {
	m, _ := newFake(t).manager(nat())
	for i := range 4 {
		reserve(t, m, fmt.Sprint(i), "web")
	}
	_, err := m.Reserve("4", Request{Network: "web"})
	if !errors.Is(err, ErrPoolFull) {
		t.Error(err)
	}
	wantError(t, err, `"web"`, "10.88.0.2 to 10.88.0.5")
	m.Release("1")
	if e := reserve(t, m, "4", "web"); e.Addr4 != addr("10.88.0.3") || e.Addr6 != addr("fd00:88::3") {
		t.Errorf("%+v", e)
	}
}

// A released address is the last to be given again.
func TestResting(t *testing.T) {
	n := nat()
	n.Pool4.Last, n.Pool6.Last = addr("10.88.0.9"), addr("fd00:88::9")
	m, _ := newFake(t).manager(n)
	now := time.Now()
	m.pool.now = func() time.Time { return now }
	var given []string
	for i := range 8 {
		e := reserve(t, m, fmt.Sprint(i), "web")
		given = append(given, e.Addr4.String())
		if i < 6 {
			m.Release(fmt.Sprint(i))
			now = now.Add(time.Second)
		}
	}
	if len(given) != 8 || given[0] != "10.88.0.2" || given[7] != "10.88.0.9" {
		t.Errorf("given one after another: %v", given)
	}
	if e := reserve(t, m, "rested longest", "web"); e.Addr4 != addr("10.88.0.2") {
		t.Errorf("%+v", e)
	}
	m.Release("rested longest") // and so rests anew
	if e := reserve(t, m, "next", "web"); e.Addr4 != addr("10.88.0.3") {
		t.Errorf("%+v", e)
	}
	now = now.Add(2 * rest)
	m.pool.rested()
	if len(m.pool.resting) != 0 || len(m.pool.queue) != 0 {
		t.Errorf("resting for ever: %v", m.pool.resting)
	}
}

func TestFixedAddresses(t *testing.T) {
	pub := alias()
	pub.Pool4.Last = addr("192.0.2.255")
	m, _ := newFake(t).manager(nat(), pub)
	four, six := addr("10.88.0.4"), addr("fd00:88::5")
	e := reserve(t, m, "a", "web", four, six)
	if e.Addr4 != four || e.Addr6 != six {
		t.Errorf("%+v", e)
	}
	for i, c := range []struct {
		network string
		fixed   []netip.Addr
		words   string
	}{
		{"web", []netip.Addr{four}, "10.88.0.4 is taken by a"},
		{"web", []netip.Addr{addr("10.88.0.200")}, "not in its pools (10.88.0.2 to 10.88.0.5, fd00:88::2 to fd00:88::5)"},
		{"web", []netip.Addr{addr("10.88.0.2"), addr("10.88.0.3")}, "one of each family"},
		{"pub", []netip.Addr{addr("192.0.2.255")}, "the network's own"},
		{"pub", []netip.Addr{addr("2001:db8::1")}, "not in its pools"},
		{"none", []netip.Addr{addr("127.0.0.1")}, "not in its pools (none)"},
	} {
		_, err := m.Reserve(fmt.Sprint(i), Request{c.network, c.fixed})
		wantError(t, err, c.words)
	}
	m.Release("a")
	// A restarted task has its address again, without a rest.
	if e := reserve(t, m, "b", "web", four); e.Addr4 != four || e.MAC != macOf(e, 0) {
		t.Errorf("%+v", e)
	}
}

// An address of alias is on the host's interface, and is given to its next holder all the same.
func TestFixedAliasAgain(t *testing.T) {
	m, _ := newFake(t).manager(alias())
	for _, holder := range []string{"a", "b"} {
		e := reserve(t, m, holder, "pub", addr("192.0.2.11"))
		if err := m.Attach(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		m.usable.seen = map[string]time.Time{}
		reserve(t, m, "other", "pub")
		m.Release("other")
		if err := m.Detach(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		m.Release(holder)
	}
}

// No address, link or MAC is anybody else's, also with starts and ends at a time.
func TestNothingTwice(t *testing.T) {
	f := newFake(t)
	n := nat()
	n.Pool4.Last, n.Pool6.Last = addr("10.88.0.20"), addr("fd00:88::20")
	m, _ := f.manager(n)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 40 {
				key := fmt.Sprintf("w%d-%d", worker, i)
				e, err := m.Reserve(key, Request{Network: "web"})
				if err != nil {
					t.Error(err)
					return
				}
				if err := lifeOf(t, m, Task{Key: key, Endpoint: e}); err != nil {
					t.Error(err)
				}
				m.Release(key)
			}
		}()
	}
	wg.Wait()
	if len(f.made)+len(m.links)+len(m.macs)+len(m.tries)+len(m.pool.held)+len(m.tasks)+len(f.held)+len(f.rules) > 0 {
		t.Errorf("left: %v %v %v", f.made, m.links, m.pool.held)
	}
	if f.most["attach"] > maxStarting || f.most["detach"] > maxEnding {
		t.Errorf("at a time: %v", f.most)
	}
}

// lifeOf is that of a task with an endpoint.
func lifeOf(t *testing.T, m *Manager, task Task) error {
	return errors.Join(m.Attach(t.Context(), task.Endpoint), m.Publish(t.Context(), task),
		m.Withdraw(t.Context(), task.Key), m.Detach(t.Context(), task.Endpoint))
}

// What an earlier daemon has given is not given again, and is the same until it is released.
func TestAdopt(t *testing.T) {
	f := newFake(t)
	before, _ := f.manager(nat(), alias())
	a, b := reserve(t, before, "a", "web"), reserve(t, before, "b", "pub")
	m, _ := f.manager(nat(), alias())
	for range 2 { // as by two tasks of an allocation
		for holder, e := range map[string]Endpoint{"a": a, "b": b} {
			if err := m.Adopt(holder, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := reserve(t, m, "a", "web"); !again.same(a) {
		t.Errorf("%+v is not %+v", again, a)
	}
	for i := range 3 {
		if e := reserve(t, m, fmt.Sprint(i), "web"); e.Addr4 == a.Addr4 || e.Addr6 == a.Addr6 || e.MAC == a.MAC {
			t.Errorf("%+v is given twice", e)
		}
	}
	if _, err := m.Reserve("3", Request{Network: "web"}); !errors.Is(err, ErrPoolFull) {
		t.Error(err)
	}
	of := a
	of.Stack = "fjnet-c"
	wantError(t, m.Adopt("c", of), "10.88.0.2 of c is also that of a")
	other := b
	other.Addr4 = addr("192.0.2.11")
	wantError(t, m.Adopt("b", other), "two network stacks")
}

// Tasks that share a stack have one endpoint, which is made twice without harm.
func TestShared(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat(), alias())
	e := reserve(t, m, "alloc-1", "web")
	if again := reserve(t, m, "alloc-1", "web", e.Addr4); !again.same(e) {
		t.Errorf("%+v", again)
	}
	_, err := m.Reserve("alloc-1", Request{Network: "pub"})
	wantError(t, err, `not "pub"`)
	_, err = m.Reserve("alloc-1", Request{"web", []netip.Addr{addr("10.88.0.5")}})
	wantError(t, err, "has not the address 10.88.0.5")
	inside := make(chan string, 9)
	f.during = func(call string) {
		inside <- call
		if len(inside) > 1 {
			t.Error("one stack is changed twice at a time")
		}
		time.Sleep(time.Millisecond)
		<-inside
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := m.Attach(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.during = nil
	if len(f.made) != 1 {
		t.Errorf("made: %v", f.made)
	}
	for range 2 {
		if err := m.Detach(t.Context(), e); err != nil || len(f.made) > 0 {
			t.Error(err, f.made)
		}
	}
}

// A link whose name somebody has is another the next time.
func TestLinkTaken(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	e := reserve(t, m, "a", "web")
	f.links[e.Link] = true
	if err := m.Attach(t.Context(), e); !errors.Is(err, ErrLinkTaken) {
		t.Error(err)
	}
	other, err := m.Another("a")
	if err != nil || other.Link == e.Link || other.Addr4 != e.Addr4 || other.MAC != e.MAC {
		t.Errorf("%+v %v", other, err)
	}
	if err := m.Attach(t.Context(), other); err != nil || !m.endpoints["a"].same(other) {
		t.Error(err)
	}
	for err == nil && m.tries["a"] < 2*maxLinks {
		_, err = m.Another("a")
	}
	if !errors.Is(err, ErrLinkTaken) {
		t.Errorf("%d links, %v", m.tries["a"], err)
	}
}
