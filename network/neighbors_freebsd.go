package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// neighbor is an address whose MAC the host knows for ever: an answer by ARP or ND changes no such entry (in_arpinput
// in netinet/if_ether.c, nd6_na_input in netinet6/nd6_nbr.c).
type neighbor struct {
	addr  netip.Addr
	mac   string
	index int // of the interface
}

// neighbors are all those of the host.
func neighbors() (list []neighbor, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		b, err := route.FetchRIB(family, syscall.NET_RT_FLAGS, unix.RTF_LLINFO)
		if err != nil {
			return nil, fmt.Errorf("list neighbors: %w", err)
		}
		messages, err := route.ParseRIB(syscall.NET_RT_FLAGS, b)
		if err != nil {
			return nil, fmt.Errorf("list neighbors: %w", err)
		}
		for _, m := range messages {
			m, is := m.(*route.RouteMessage)
			if !is || m.Flags&unix.RTF_STATIC == 0 || len(m.Addrs) <= unix.RTAX_GATEWAY {
				continue
			}
			if at, is := m.Addrs[unix.RTAX_GATEWAY].(*route.LinkAddr); is {
				mac := net.HardwareAddr(at.Addr).String()
				list = append(list, neighbor{addrOf(m.Addrs[unix.RTAX_DST]), mac, at.Index})
			}
		}
	}
	return list, nil
}

// neighbors are those that a task has on freejail's bridge.
func (e Endpoint) neighbors(mac net.HardwareAddr, index int) (list []neighbor) {
	for _, a := range pfValid(e.Addr4, e.Addr6, e.linkLocal()) {
		list = append(list, neighbor{a, mac.String(), index})
	}
	return list
}

// know has the host know a task's MAC for ever.
func (s *kernelStacks) know(e Endpoint, bridge string, mac net.HardwareAddr) error {
	index, err := s.host.index(bridge)
	if err != nil {
		return err
	}
	// What the host has heard of them goes first: an entry of IPv6 takes the place of no other, and the newest
	// counts (lla_rt_output and htable_link_entry in net/if_llatbl.c).
	var errs []error
	for _, n := range e.neighbors(mac, index) {
		err := s.host.neighbor(unix.RTM_DELETE, n, nil)
		errs = append(errs, err, s.host.neighbor(unix.RTM_ADD, n, mac))
	}
	return errors.Join(errs...)
}

// forget takes away what know has done.
func (s *kernelStacks) forget(e Endpoint) error {
	if e.Link == "" || e.Mode == Bridged {
		return nil
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return s.forgetLink(e.Link) // it was found without its record
	}
	n := Network{Name: e.Network}
	index, err := s.host.index(n.OwnBridge())
	if err != nil || s.host.description(n.OwnBridge()) != s.ownBridge(n) {
		return nil // they went with the bridge
	}
	var errs []error
	for _, n := range e.neighbors(mac, index) {
		errs = append(errs, s.host.neighbor(unix.RTM_DELETE, n, nil))
	}
	return errors.Join(errs...)
}

// forgetLink takes away what the host knows of the task's end of a link.
func (s *kernelStacks) forgetLink(link string) error {
	mac := s.taskMAC(link)
	list, err := neighbors()
	errs := []error{err}
	for _, n := range list {
		if n.mac == mac && s.isOwnBridge(n.index) {
			errs = append(errs, s.host.neighbor(unix.RTM_DELETE, n, nil))
		}
	}
	return errors.Join(errs...)
}

// forgotten are those whose MAC the host does not know for ever, as after `arp -da`.
func (s *kernelStacks) forgotten(n Network, list []Endpoint) (out []Endpoint, err error) {
	if n.Mode != NAT {
		return nil, nil
	}
	index, err := s.host.index(n.OwnBridge())
	if err != nil {
		return nil, err
	}
	have, err := neighbors()
	known := map[neighbor]bool{}
	for _, n := range have {
		known[n] = true
	}
	missing := func(n neighbor) bool { return !known[n] }
	for _, e := range list {
		mac, merr := net.ParseMAC(e.MAC)
		if err == nil && merr == nil && slices.ContainsFunc(e.neighbors(mac, index), missing) {
			out = append(out, e)
		}
	}
	return out, err
}

// taskMAC is that of the other end of a link, or empty: see hostMAC.
func (s *kernelStacks) taskMAC(link string) string {
	index, err := s.host.index(link)
	if err != nil {
		return ""
	}
	list, _, err := interfaces(index)
	for _, m := range list {
		at, is := m.Addrs[unix.RTAX_IFP].(*route.LinkAddr)
		if err == nil && is && len(at.Addr) == 6 {
			return net.HardwareAddr(append([]byte{0x02}, at.Addr[1:]...)).String()
		}
	}
	return ""
}

func (s *kernelStacks) isOwnBridge(index int) bool {
	list, _, err := interfaces(index)
	return err == nil && slices.ContainsFunc(list, func(m *route.InterfaceMessage) bool {
		is := s.host.description(m.Name)
		return strings.HasPrefix(is, "freejail network:") && strings.HasSuffix(is, " "+s.dir)
	})
}

// neighbor adds or removes an entry.
func (s sockets) neighbor(change int, n neighbor, mac net.HardwareAddr) error {
	m := route.RouteMessage{Version: unix.RTM_VERSION, Type: change, Seq: 1,
		Flags: unix.RTF_HOST | unix.RTF_STATIC | unix.RTF_LLINFO,
		Addrs: []route.Addr{unix.RTAX_DST: routeAddr(n.addr, zone(n.addr, n.index)),
			unix.RTAX_GATEWAY: &route.LinkAddr{Index: n.index, Addr: mac}}}
	b, err := m.Marshal()
	if err == nil {
		_, err = unix.Write(s.route, b)
	}
	if err != nil && (change == unix.RTM_ADD || !errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("neighbor %s: %w", n.addr, err)
	}
	return nil
}
