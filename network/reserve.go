package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Reserve chooses the stack's name, the link, the MAC and the addresses of a holder, a task's key or
// that of an allocation; it gives the same again until Release. The addresses rest after that.
func (m *Manager) Reserve(holder string, r Request) (Endpoint, error) {
	n, err := m.network(r.Network)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.usable.check(n); err != nil {
		return Endpoint{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.endpoints[holder]; ok {
		return e, e.fits(holder, r)
	}
	if err := m.unchanged(n); err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Network: n.Name, Mode: n.Mode, As: n}
	if e.Addr4, e.Addr6, err = m.addresses(n, r.Addresses); err != nil {
		return Endpoint{}, about(n.Name, err)
	}
	if n.Mode.OwnStack() {
		e.Stack = stackName(holder)
	}
	if n.Mode == NAT || n.Mode == Bridged {
		m.link(holder, &e)
		for try := 0; e.MAC == "" || m.macs[e.MAC] != ""; try++ {
			e.MAC = macOf(e, try)
		}
	}
	m.note(holder, e)
	return e, nil
}

// fits tells whether an endpoint is what another task of its holder asks for.
func (e Endpoint) fits(holder string, r Request) error {
	if e.Network != r.Network {
		return fmt.Errorf("%s has the network %q: all tasks that share a network stack name the same, not %q",
			holder, e.Network, r.Network)
	}
	for _, a := range r.Addresses {
		if a != e.Addr4 && a != e.Addr6 {
			return fmt.Errorf("%s has not the address %s: all tasks that share a network stack have the same",
				holder, a)
		}
	}
	return nil
}

// unchanged refuses a network of which a task still has what the configuration said before.
func (m *Manager) unchanged(n Network) error {
	if err := m.clashes(n); err != nil {
		return err
	}
	if !slices.ContainsFunc(m.living[n.Name], func(l living) bool { return l.shape != n.shape() }) {
		return nil
	}
	for holder, e := range m.endpoints {
		if e.Network == n.Name && !e.As.sameShape(n) {
			return fmt.Errorf("%snetwork %q has changed in the host configuration while %s uses it as it was: "+
				"stop its tasks (freejail networks %[2]s)", place(n), n.Name, holder)
		}
	}
	return nil
}

// Beside tells which networks of another configuration would refuse new tasks for those that run now.
func (m *Manager) Beside(networks []Network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, n := range networks {
		errs = append(errs, m.unchanged(n))
	}
	return errors.Join(errs...)
}

// clashes refuses a network beside one that was removed from the configuration and that tasks still have, such as the
// same by another name: two bridges would have one gateway. The caller locks.
func (m *Manager) clashes(n Network) error {
	for _, name := range slices.Sorted(maps.Keys(m.living)) {
		for _, l := range m.living[name] {
			if name == n.Name || n.Mode != NAT && l.Mode != NAT {
				continue
			}
			if err := n.besides(l.Network); err != nil {
				return fmt.Errorf("%w, which tasks still have as it was: stop them (freejail networks %s)", err, name)
			}
		}
	}
	return nil
}

// keptBesides names what a running task keeps of a network beside its shape, where the configuration has something else
// now. Rules change at once.
func (n Network) keptBesides(as Network) (keys []string) {
	for _, k := range []struct {
		key  string
		same bool
	}{{"mtu", n.MTU == as.MTU}, {"dns", slices.Equal(n.DNS, as.DNS)},
		{"isolate", n.Mode != Bridged || n.Isolate == as.Isolate}} {
		if !k.same {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// shape is what of a network its stacks are made by.
type shape struct {
	mode               Mode
	subnet4, subnet6   netip.Prefix
	gateway4, gateway6 netip.Addr
	bridge, link       string
}

func (n Network) shape() shape {
	return shape{n.Mode, n.Subnet4, n.Subnet6, n.Gateway4, n.Gateway6, n.Bridge, n.Interface}
}

// sameShape tells whether stacks of one network work as well in the other.
func (n Network) sameShape(o Network) bool { return n.shape() == o.shape() }

// addresses finds one of each family of a network: those that are wanted, or free ones.
func (m *Manager) addresses(n Network, wanted []netip.Addr) (a4, a6 netip.Addr, err error) {
	reserved := n.reserved()
	for _, a := range wanted {
		family, pool := &a4, n.Pool4
		if a.Is6() {
			family, pool = &a6, n.Pool6
		}
		switch holder := m.pool.held[a]; {
		case family.IsValid():
			err = fmt.Errorf("addresses %s and %s: a task has one of each family", *family, a)
		case !pool.Contains(a):
			err = fmt.Errorf("address %s is not in its pools (%s)", a, n.pools())
		case holder != "":
			err = fmt.Errorf("address %s is taken by %s", a, holder)
		case reserved[a]:
			err = fmt.Errorf("address %s is the gateway's, or the network's own", a)
		}
		if err != nil {
			return a4, a6, err
		}
		*family = a
	}
	for _, f := range []struct {
		addr *netip.Addr
		pool Range
	}{{&a4, n.Pool4}, {&a6, n.Pool6}} {
		if f.addr.IsValid() || !f.pool.First.IsValid() {
			continue
		}
		ok := false
		if *f.addr, ok = m.pool.choose(f.pool, reserved); !ok {
			return a4, a6, fmt.Errorf("%w: all of %s are in use", ErrPoolFull, f.pool)
		}
	}
	return a4, a6, nil
}

// pools are those of a network, in words.
func (n Network) pools() string {
	var list []string
	for _, r := range []Range{n.Pool4, n.Pool6} {
		if r.First.IsValid() {
			list = append(list, r.String())
		}
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

// link chooses a name of a link that no other holder has, and that was not tried for this one.
func (m *Manager) link(holder string, e *Endpoint) {
	first := linkNumber(m.cfg.StateDir, holder)
	for {
		e.Link = linkName(first + m.tries[holder])
		m.tries[holder]++
		if m.links[e.Link] == "" {
			return
		}
	}
}

// note has a holder have an endpoint.
func (m *Manager) note(holder string, e Endpoint) {
	if _, had := m.endpoints[holder]; !had {
		m.live(e.As, 1)
	}
	m.endpoints[holder] = e
	for _, a := range e.addrs() {
		m.pool.hold(a, holder)
	}
	if e.Link != "" {
		m.links[e.Link] = holder
	}
	if e.MAC != "" {
		m.macs[e.MAC] = holder
	}
	if e.Stack != "" {
		m.named[e.Stack] = holder
	}
}

// Another chooses another link for a holder, whose first was taken by another interface.
func (m *Manager) Another(holder string) (Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.endpoints[holder]
	if !ok || e.Link == "" {
		return e, fmt.Errorf("%s has no link", holder)
	}
	if m.tries[holder] >= maxLinks {
		return e, fmt.Errorf("%w, up to %s: remove interfaces that nobody uses", ErrLinkTaken, e.Link)
	}
	delete(m.links, e.Link)
	m.link(holder, &e)
	m.note(holder, e)
	return e, nil
}

// maxLinks is how many names are tried for a link.
const maxLinks = 100
