package network

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// states are whose connections the host may know: those of tasks, by their addresses, and
// by UDP ports of the host that lead to tasks.
type states struct {
	living map[netip.Addr]bool
	udp    map[uint16]bool
}

func statesOf(tasks []Task) *states {
	s := &states{living: map[netip.Addr]bool{}, udp: map[uint16]bool{}}
	for _, t := range tasks {
		for _, a := range []netip.Addr{t.Addr4, t.Addr6} {
			if a.IsValid() && t.Mode == NAT {
				s.living[a] = true
			}
		}
		for _, p := range t.Published {
			for i := range max(p.Count, 1) {
				if p.Protocol == "udp" {
					s.udp[p.First+i] = true
				}
			}
		}
	}
	return s
}

// forget deletes the connections of tasks that went, and those of UDP ports which were not yet
// translated when they began: the client of one may send on for hours.
func (f *linuxFilter) forget(networks []Network, tasks []Task) error {
	now := statesOf(tasks)
	last := f.known
	f.known = now
	if last != nil && !last.lost(now) {
		return nil
	}
	stale := staleFlow{networks: networks, now: now, last: last}
	var errs error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
		if !errors.Is(err, unix.ENOENT) { // one that ended meanwhile
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// lost tells whether there is something to forget.
func (s *states) lost(now *states) bool {
	for a := range s.living {
		if !now.living[a] {
			return true
		}
	}
	for p := range now.udp {
		if !s.udp[p] {
			return true
		}
	}
	return false
}

type staleFlow struct {
	networks  []Network
	now, last *states
}

// MatchConntrackFlow tells whether a connection is to be deleted.
func (s staleFlow) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	ends := []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP}
	led := false
	for _, ip := range ends {
		a, ok := netip.AddrFromSlice(ip)
		a = a.Unmap()
		if ok && s.ofTasks(a) && !s.now.living[a] {
			return true
		}
		led = led || s.now.living[a]
	}
	fresh := s.now.udp[flow.Forward.DstPort] && (s.last == nil || !s.last.udp[flow.Forward.DstPort])
	return flow.Forward.Protocol == unix.IPPROTO_UDP && fresh && !led
}

// ofTasks tells whether an address can be that of a task.
func (s staleFlow) ofTasks(a netip.Addr) bool {
	for _, n := range s.networks {
		if n.Mode == NAT && a != n.Gateway4 && a != n.Gateway6 && (n.Subnet4.Contains(a) || n.Subnet6.Contains(a)) {
			return true
		}
	}
	return s.last != nil && s.last.living[a]
}
