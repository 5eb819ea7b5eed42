package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Status is one network as it is.
type Status struct {
	Network
	Used, Size int    // addresses, of the smaller of its pools
	Problem    string // what keeps it from being used
	// Kept is that it was removed from the configuration, or changed there, and that tasks have it as it was.
	Kept bool
	// Unheld are tasks whose published ports are not held since the last daemon was killed, each with the reason.
	Unheld []string
	err    error // of the problem, where it is the host's
}

// List has the status of all networks, in their order, and then of those that are no longer in the
// configuration and that tasks have.
func (m *Manager) List() []Status {
	m.mu.Lock()
	networks, used, gone, unheld := m.networks(), map[string]int{}, map[string]string{}, m.unheldBy()
	for _, e := range m.endpoints {
		used[e.Network]++
		gone[e.Network] = m.gone(e.Network)
	}
	m.mu.Unlock()
	var list []Status
	for _, n := range networks {
		s := Status{Network: n, Used: used[n.Name], Size: n.Size(), Unheld: unheld[n.Name]}
		now, err := m.network(n.Name)
		switch {
		case err != nil:
			s.Kept, s.Problem = true, "not in the host configuration any more: its tasks keep it until they end"
		case !now.sameShape(n):
			s.Kept, s.Problem = true, "changed in the host configuration: its tasks keep it as it was until they end"
		default:
			m.mu.Lock()
			s.err = m.clashes(n)
			m.mu.Unlock()
			if s.err == nil {
				m.usable.forget(n.Name) // who asks is told what is
				s.err = m.usable.check(n)
			}
			if s.err != nil {
				s.Problem = s.err.Error()
			}
		}
		s.Problem = strings.Trim(s.Problem+"\n"+gone[n.Name], "\n")
		list = append(list, s)
	}
	return list
}

// unheldBy are the tasks whose ports are not held, by network. The caller locks.
func (m *Manager) unheldBy() map[string][]string {
	by := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(m.unheld)) {
		u := m.unheld[key]
		by[u.task.Network] = append(by[u.task.Network],
			fmt.Sprintf("published ports of %s are not held: %v", key, u.err))
	}
	return by
}

// Describe is what a network is, in words.
func (s Status) Describe() string {
	of := []string{string(s.Mode)}
	for _, f := range s.families() {
		if f.subnet.IsValid() {
			of = append(of, f.subnet.String())
		}
	}
	for _, name := range []string{s.Bridge, s.Interface} {
		if name != "" {
			of = append(of, "on "+name)
		}
	}
	return fmt.Sprintf("%s, %d addresses for tasks", strings.Join(of, " "), s.Size)
}

// Unbounded names the subnets of the operator's of which tasks get all, also what others have there.
func (n Network) Unbounded() (list []netip.Prefix) {
	for _, f := range n.families() {
		if n.Mode != NAT && f.subnet.IsValid() && f.pool == n.PoolOf(f.subnet) && n.size(f.pool) > 1 {
			list = append(list, f.subnet)
		}
	}
	return list
}

// Size is how many tasks can have addresses of a network.
func (n Network) Size() int {
	size := n.size(n.Pool4)
	if six := n.size(n.Pool6); n.Pool6.First.IsValid() && (six < size || !n.Pool4.First.IsValid()) {
		size = six
	}
	return size
}

// Check tells for each network what of the host keeps it from being used, but for a packet filter that
// does not run: that may come later, and hinders only tasks of nat networks.
func (m *Manager) Check() error {
	var errs []error
	for _, n := range m.cfg.Networks {
		errs = append(errs, m.usable.host(n))
	}
	return errors.Join(errs...)
}

// Ports are those that are held.
func (m *Manager) Ports() Held { return m.ports.count() }
