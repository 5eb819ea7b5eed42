package network

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// interfaces are the host's, with their addresses: the one of an index, or all where that is 0.
func interfaces(index int) (list []*route.InterfaceMessage, addrs []*route.InterfaceAddrMessage, err error) {
	b, err := route.FetchRIB(unix.AF_UNSPEC, syscall.NET_RT_IFLIST, index)
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	messages, err := route.ParseRIB(syscall.NET_RT_IFLIST, b)
	for _, m := range messages {
		switch m := m.(type) {
		case *route.InterfaceMessage:
			list = append(list, m)
		case *route.InterfaceAddrMessage:
			addrs = append(addrs, m)
		}
	}
	return list, addrs, err
}

// described are the interfaces that are of this state directory, by name with what they are for.
func (s *kernelStacks) described() (map[string]string, error) {
	list, _, err := interfaces(0)
	found := map[string]string{}
	for _, m := range list {
		text, is := strings.CutPrefix(s.host.description(m.Name), "freejail ")
		if what, of := strings.CutSuffix(text, " "+s.dir); is && of {
			found[m.Name] = what
		}
	}
	return found, err
}

func (s *kernelStacks) endpoints() ([]Endpoint, error) {
	stacks, err := s.owners()
	if err != nil {
		return nil, err
	}
	found, err := s.described()
	if err != nil {
		return nil, err
	}
	links := map[string]string{}
	for name, what := range found {
		if strings.HasPrefix(what, ownerPrefix) && strings.HasPrefix(name, "epair") {
			links[what] = name
		}
	}
	var list []Endpoint
	for _, stack := range stacks {
		list = append(list, Endpoint{Stack: stack, Link: links[stack]})
		delete(links, stack)
	}
	for stack, name := range links { // whose jail is not made yet, or is gone
		list = append(list, Endpoint{Stack: stack, Link: name})
	}
	aliases, err := s.aliases()
	return append(list, aliases...), err
}

func (s *kernelStacks) counters() (map[string]Counters, error) {
	names, err := s.host.members(group)
	out := map[string]Counters{}
	for _, name := range names {
		data := make([]byte, sizeIfData)
		got := ioctl(s.host.inet, siocData, pointed(name, data, false))
		runtime.KeepAlive(data)
		if got == nil && strings.HasPrefix(name, "epair") { // not one that went meanwhile
			out[name] = countersOf(data)
		}
	}
	return out, err
}

// kernelAddresses are those of the host's interfaces.
func kernelAddresses() ([]hostAddress, error) { return addressesAt(0) }

// addressesAt are those of an interface by its index.
func addressesAt(index int) (out []hostAddress, err error) {
	list, addrs, err := interfaces(index)
	names := map[int]string{}
	for _, m := range list {
		names[m.Index] = m.Name
	}
	for _, m := range addrs {
		if len(m.Addrs) <= unix.RTAX_IFA || m.Addrs[unix.RTAX_IFA] == nil {
			continue
		}
		addr := addrOf(m.Addrs[unix.RTAX_IFA])
		mask := addrOf(m.Addrs[unix.RTAX_NETMASK])
		if addr.IsValid() && mask.IsValid() {
			out = append(out, hostAddress{Prefix: netip.PrefixFrom(addr, ones(mask)), Interface: names[m.Index]})
		}
	}
	return out, err
}

func addrOf(a route.Addr) netip.Addr {
	switch a := a.(type) {
	case *route.Inet4Addr:
		return netip.AddrFrom4(a.IP)
	case *route.Inet6Addr:
		return netip.AddrFrom16(a.IP)
	}
	return netip.Addr{}
}

func (s *kernelStacks) addresses() ([]hostAddress, error) {
	list, err := kernelAddresses()
	if err != nil {
		return nil, err
	}
	own, err := s.described()
	for i, a := range list {
		if strings.HasPrefix(own[a.Interface], "network:") || s.isAlias(a) {
			list[i].Ours = true
		}
	}
	return list, err
}

// prune removes bridges of ours that belong to none of the networks, and have no members.
func (s *kernelStacks) prune(networks []Network) error {
	keep := map[string]bool{}
	for _, n := range networks {
		keep["network:"+n.Name] = n.Mode == NAT
	}
	own, err := s.described()
	errs := []error{err}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, what := range own {
		if !strings.HasPrefix(what, "network:") || keep[what] {
			continue
		}
		members, err := s.members(name)
		if err == nil && len(members) == 0 {
			delete(s.bridges, name)
			err = s.host.do("removal", unix.SIOCIFDESTROY, named(sizeIfreq, name))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
