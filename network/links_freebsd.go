package network

import (
	"net"
	"slices"
)

func (s *kernelStacks) cut(n Network, list []Endpoint) ([]Endpoint, error) {
	switch n.Mode {
	case Bridged:
		if err := s.checkBridge(n.Bridge); err != nil {
			return list, err
		}
		return s.apart(list, n.Bridge)
	case Alias:
		return s.withoutAddress(n, list)
	case NAT:
		if err := s.check(n); err != nil {
			return list, err
		}
		if !s.hasGateways(n) {
			return list, nil
		}
		return s.apart(list, n.OwnBridge())
	}
	return nil, nil
}

// apart are those whose link is not a member of a bridge, or down: `service netif stop` takes all interfaces down.
func (s *kernelStacks) apart(list []Endpoint, bridge string) (cut []Endpoint, err error) {
	members, err := s.members(bridge)
	if err != nil {
		return list, err
	}
	for _, e := range list {
		if !slices.Contains(members, e.Link) || !s.host.isUp(e.Link) {
			cut = append(cut, e)
		}
	}
	return cut, nil
}

// withoutAddress are those of alias whose addresses are not all there.
func (s *kernelStacks) withoutAddress(n Network, list []Endpoint) (cut []Endpoint, err error) {
	if !s.host.has(n.Interface) {
		return list, noInterface(n)
	}
	for _, e := range list {
		for _, a := range e.addrs() {
			if _, marked := s.host.alias(n.Interface, a); !marked {
				cut = append(cut, e)
				break
			}
		}
	}
	return cut, nil
}

// hasGateways tells whether freejail's bridge is there and up, with the gateway's addresses.
func (s *kernelStacks) hasGateways(n Network) bool {
	name := n.OwnBridge()
	if s.host.description(name) != s.ownBridge(n) || !s.host.isUp(name) {
		return false
	}
	index, err := s.host.index(name)
	if err != nil {
		return false
	}
	have, err := addressesAt(index)
	for _, want := range gateways(n) {
		if err != nil || !slices.ContainsFunc(have, func(a hostAddress) bool { return a.Prefix == want }) {
			return false
		}
	}
	return true
}

// rejoin puts a link on its bridge again. One that was taken away itself is made anew.
func (s *kernelStacks) rejoin(n Network, e Endpoint) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if e.Mode == Alias || !s.host.has(e.Link) {
		return s.make(n, e)
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	if n.Mode == NAT { // the gateway's addresses may be what is missing
		s.mu.Lock()
		delete(s.bridges, n.OwnBridge())
		s.mu.Unlock()
	}
	bridge, err := s.bridgeOf(n)
	if err != nil {
		return err
	}
	mtu, err := s.host.mtu(bridge)
	if err != nil {
		return err
	}
	if err := s.join(n, e, bridge, mac, mtu); err != nil {
		return err
	}
	return s.host.up(e.Link)
}
