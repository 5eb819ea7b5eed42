package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// rejoin is attach: what is there is left as it is.
func (s *linuxStacks) rejoin(n Network, e Endpoint) error { return s.attach(n, e) }

// forgotten are none: bridges here pass no answer by ARP or ND that is not the neighbor's own.
func (s *linuxStacks) forgotten(Network, []Endpoint) ([]Endpoint, error) { return nil, nil }

func (s *linuxStacks) cut(n Network, list []Endpoint) ([]Endpoint, error) {
	switch n.Mode {
	case Bridged:
		b, err := operatorsBridge(n)
		if err != nil {
			return list, err
		}
		return s.apart(list, b.Attrs().Index)
	case Alias:
		return s.withoutAddress(n, list)
	case NAT:
		if err := s.check(n); err != nil {
			return list, err
		}
		if !s.hasGateways(n) {
			return list, nil
		}
		return s.unrouted(list)
	}
	return nil, nil
}

// apart are those whose link is not up as a port of a bridge.
func (s *linuxStacks) apart(list []Endpoint, bridge int) (cut []Endpoint, err error) {
	links, err := whole(netlink.LinkList)
	ports := map[string]bool{}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge {
			ports[l.Attrs().Name] = true
		}
	}
	for _, e := range list {
		if !ports[e.Link] {
			cut = append(cut, e)
		}
	}
	return cut, err
}

// withoutAddress are those of alias whose addresses are not all there.
func (s *linuxStacks) withoutAddress(n Network, list []Endpoint) (cut []Endpoint, err error) {
	if err := checkInterface(n.Interface); err != nil {
		return list, err
	}
	l, err := netlink.LinkByName(n.Interface)
	if err != nil {
		return list, err
	}
	have, err := kernelAddresses()
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		for _, a := range e.addrs() {
			if on := have[a]; on.mark != s.group || on.index != l.Attrs().Index {
				cut = append(cut, e)
				break
			}
		}
	}
	return cut, nil
}

// hasGateways tells whether freejail's bridge is there, with the gateway's addresses.
func (s *linuxStacks) hasGateways(n Network) bool {
	l, err := netlink.LinkByName(n.OwnBridge())
	if err != nil || l.Type() != "bridge" || l.Attrs().Group != s.group {
		return false
	}
	have, err := kernelAddresses()
	for _, a := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if err != nil || a.IsValid() && have[a].index != l.Attrs().Index {
			return false
		}
	}
	return true
}

// unrouted are those of nat to whose addresses the host has no route by their links: with a gateway's address it
// forgets those that have it as their source.
func (s *linuxStacks) unrouted(list []Endpoint) (cut []Endpoint, err error) {
	for _, e := range list {
		l, err := netlink.LinkByName(e.Link)
		if isNoLink(err) {
			cut = append(cut, e)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", e.Link, err)
		}
		for _, a := range e.addrs() {
			routes, err := netlink.RouteGet(a.AsSlice())
			if err != nil || len(routes) == 0 || routes[0].LinkIndex != l.Attrs().Index {
				cut = append(cut, e)
				break
			}
		}
	}
	return cut, nil
}
