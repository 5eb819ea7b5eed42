package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// fake is a host: its stacks, packet filter and ports, which tell in what order they were changed.
type fake struct {
	t  *testing.T
	mu sync.Mutex

	log      []string
	made     map[string]Endpoint // by stack, or addresses with alias
	hosts    []hostAddress
	bridges  map[string]Network
	missing  map[string]error // of networks, by name
	links    map[string]bool  // of others
	apart    map[string]bool  // stacks that are not connected any more
	unknown  map[string]bool  // stacks that the host has forgotten
	stubborn bool             // they are not connected by rejoin
	failures map[string]error // of calls, by their name
	at, most map[string]int   // how many calls of a name are at work, and were at most

	loads  int
	rules  []Task
	nets   []Network
	flush  bool
	held   map[string]Task
	others map[Publication]string // ports of other programs
	during func(call string)
}

func (f *fake) call(name, what string) error {
	if f.during != nil {
		f.during(name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, name+" "+what)
	return f.failures[name]
}

func stackKey(e Endpoint) string {
	if e.Stack == "" {
		return fmt.Sprint(e.addrs())
	}
	return e.Stack
}

func (f *fake) check(n Network) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missing[n.Name]
}

// work counts a call that is at work, until it is done.
func (f *fake) work(name string) (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at[name]++
	f.most[name] = max(f.most[name], f.at[name])
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.at[name]--
	}
}

func (f *fake) attach(n Network, e Endpoint) error {
	defer f.work("attach")()
	if err := f.call("attach", stackKey(e)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[e.Link] {
		return fmt.Errorf("%s: %w", e.Link, ErrLinkTaken)
	}
	for key, other := range f.made {
		for _, a := range e.addrs() {
			if key != stackKey(e) && (other.Addr4 == a || other.Addr6 == a) {
				f.t.Errorf("%s is given twice: %s and %s", a, key, stackKey(e))
			}
		}
	}
	f.made[stackKey(e)] = e
	if n.Mode == NAT {
		f.bridges[n.OwnBridge()] = n
	}
	return nil
}

func (f *fake) cut(n Network, list []Endpoint) (cut []Endpoint, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range list {
		if f.missing[n.Name] != nil || f.apart[stackKey(e)] {
			cut = append(cut, e)
		}
	}
	return cut, f.missing[n.Name]
}

func (f *fake) forgotten(_ Network, list []Endpoint) (out []Endpoint, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range list {
		if f.unknown[stackKey(e)] {
			out = append(out, e)
		}
	}
	return out, nil
}

func (f *fake) rejoin(n Network, e Endpoint) error {
	if err := f.call("rejoin", stackKey(e)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.unknown, stackKey(e))
	if !f.stubborn {
		delete(f.apart, stackKey(e))
	}
	return nil
}

func (f *fake) detach(e Endpoint) error {
	defer f.work("detach")()
	err := f.call("detach", stackKey(e))
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.made, stackKey(e))
	}
	return err
}

func (f *fake) endpoints() ([]Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []Endpoint
	for _, e := range f.made { // what a kernel tells of them
		if found := (Endpoint{Stack: e.Stack, Link: e.Link}); e.Mode == Alias {
			list = append(list, Endpoint{Network: e.Network, Mode: Alias, Addr4: e.Addr4})
		} else {
			list = append(list, found)
		}
	}
	return list, f.failures["endpoints"]
}

func (f *fake) counters() (map[string]Counters, error) { return nil, nil }

func (f *fake) addresses() ([]hostAddress, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.Clone(f.hosts)
	for _, n := range f.bridges {
		if n.Gateway4.IsValid() {
			list = append(list, hostAddress{netip.PrefixFrom(n.Gateway4, n.Subnet4.Bits()), n.OwnBridge(), true})
		}
	}
	for _, e := range f.made {
		if e.Mode == Alias && e.Addr4.IsValid() {
			list = append(list, hostAddress{netip.PrefixFrom(e.Addr4, 32), e.As.Interface, true})
		}
	}
	return list, nil
}

func (f *fake) prune(keep []Network) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.bridges, func(name string, _ Network) bool {
		return !slices.ContainsFunc(keep, func(n Network) bool { return n.Mode == NAT && n.OwnBridge() == name })
	})
	return nil
}

// fakeFilter is its packet filter.
type fakeFilter struct{ *fake }

func (f fakeFilter) check() error { return f.failed("filter") }

func (f *fake) failed(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures[call]
}

func (f fakeFilter) load(networks []Network, tasks []Task) error {
	err := f.call("load", fmt.Sprint(len(tasks)))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads++
	if err == nil {
		f.nets, f.rules, f.flush = networks, tasks, false
	}
	return err
}

func (f fakeFilter) loaded() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.flush, f.failures["loaded"]
}

// fakePorts are its ports.
type fakePorts struct{ *fake }

func (f fakePorts) hold(t Task) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range t.Published {
		if who := f.others[p]; who != "" {
			return fmt.Errorf("port %d is taken by %s", p.First, who)
		}
	}
	f.held[t.Key] = t
	return nil
}

func (f fakePorts) free(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, key)
}

func (f fakePorts) resolve(n Network) error { return f.call("resolve", n.Name) }

func (f fakePorts) settle() {}

func (f fakePorts) count() Held { return Held{} }

func (f fakePorts) pass(env []string, replace func([]string) error) error { return replace(env) }

func newFake(t *testing.T) *fake {
	return &fake{t: t, made: map[string]Endpoint{}, bridges: map[string]Network{}, missing: map[string]error{},
		links: map[string]bool{}, apart: map[string]bool{}, unknown: map[string]bool{},
		at: map[string]int{}, most: map[string]int{}, failures: map[string]error{}, held: map[string]Task{}, others: map[Publication]string{}}
}

// manager is that of a daemon on the host. What it tells is in told.
func (f *fake) manager(networks ...Network) (m *Manager, told *[]string) {
	f.t.Helper()
	told = new([]string)
	m, err := newManager(Config{StateDir: "/state", Networks: networks, Log: hclog.NewNullLogger(),
		Tell: func(kind, message string) { *told = append(*told, kind+": "+message) }}, f, fakeFilter{f}, fakePorts{f})
	if err != nil {
		f.t.Fatal(err)
	}
	return m, told
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func span(first, last string) Range { return Range{addr(first), addr(last)} }

// nat is a network of both families, with four addresses of each.
func nat() Network {
	return Network{Name: "web", Mode: NAT, Where: "freejail.hcl:3",
		Subnet4: prefix("10.88.0.0/24"), Pool4: span("10.88.0.2", "10.88.0.5"), Gateway4: addr("10.88.0.1"),
		Subnet6: prefix("fd00:88::/64"), Pool6: span("fd00:88::2", "fd00:88::5"), Gateway6: addr("fd00:88::1")}
}

func alias() Network {
	return Network{Name: "pub", Mode: Alias, Interface: "em0", Subnet4: prefix("192.0.2.0/24"),
		Pool4: span("192.0.2.10", "192.0.2.11"), Where: "freejail.hcl:9"}
}

func bridged() Network {
	return Network{Name: "lan", Mode: Bridged, Bridge: "bridge0", Subnet6: prefix("2001:db8::/64"),
		Pool6: span("2001:db8::10", "2001:db8::12"), Gateway6: addr("fe80::1"), Where: "freejail.hcl:20"}
}

var errFake = errors.New("the kernel says no")
