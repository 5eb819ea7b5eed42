package network

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and flags of net/if_bridgevar.h.
const (
	bridgeAdd, bridgeGetFlags, bridgeSetFlags, bridgeMembers, bridgeStatic, bridgeParams = 0, 2, 3, 6, 8, 25

	memberLearns, memberDiscovers, memberPrivate = 0x1, 0x2, 0x800
)

// bridgeOf is the bridge of a network: the operator's, or freejail's own, which is made at the first need.
func (s *kernelStacks) bridgeOf(n Network) (string, error) {
	if n.Mode == Bridged {
		if err := s.checkBridge(n.Bridge); err != nil {
			return "", err
		}
		return n.Bridge, s.sparesMembers(n.Bridge)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := n.OwnBridge()
	if _, done := s.bridges[name]; done && s.host.has(name) {
		return name, nil
	}
	err := s.makeBridge(n, name)
	if err == nil {
		s.bridges[name] = n
	}
	return name, err
}

// checkBridge tells whether there is a bridge of this name.
func (s *kernelStacks) checkBridge(name string) error {
	if !s.host.has(name) {
		return lack{fmt.Errorf("there is no bridge %s", name), makeBridgeBy(name)}
	}
	if s.host.bridge(unix.SIOCGDRVSPEC, name, bridgeParams, make([]byte, sizeBridgeParam)) != nil {
		return fmt.Errorf("interface %s is not a bridge", name)
	}
	return nil
}

// makeBridgeBy is the command by which the operator makes a bridge, now and when the host starts.
func makeBridgeBy(name string) string {
	var n uint64
	if _, err := fmt.Sscanf(name, "bridge%d", &n); err == nil && fmt.Sprintf("bridge%d", n) == name {
		return fmt.Sprintf("ifconfig %s create up && sysrc cloned_interfaces+=%[1]s", name)
	}
	return fmt.Sprintf("ifconfig bridge create name %s up", name)
}

// sparesMembers refuses to add a member to a bridge where the kernel would take the IPv6 addresses of others away: of
// those that have a link-local one, where the bridge has one too (bridge_ioctl_add in net/if_bridge.c).
func (s *kernelStacks) sparesMembers(bridge string) error {
	overlap, err := unix.SysctlUint32("net.link.bridge.allow_llz_overlap")
	if err != nil || overlap != 0 || !s.hasLinkLocal(bridge) {
		return err
	}
	members, err := s.members(bridge)
	for _, m := range members {
		if err == nil && !ownLink(m) && s.hasLinkLocal(m) {
			err = fmt.Errorf("bridge %s and its member %s both have link-local IPv6 addresses: with another "+
				"member the kernel would take all IPv6 addresses of %s away (ifconfig %s inet6 ifdisabled "+
				"-auto_linklocal, or sysctl net.link.bridge.allow_llz_overlap=1)", bridge, m, m, m)
		}
	}
	return err
}

func (s *kernelStacks) hasLinkLocal(name string) bool {
	index, err := s.host.index(name)
	if err != nil {
		return false
	}
	all, err := addressesAt(index)
	return err != nil || slices.ContainsFunc(all, func(a hostAddress) bool {
		return a.Addr().Is6() && a.Addr().IsLinkLocalUnicast()
	})
}

// ownLink tells whether a name is one of freejail's links.
func ownLink(name string) bool {
	var n uint64
	_, err := fmt.Sscanf(name, "epair%da", &n)
	return err == nil && n >= ownNumbers && linkName(n) == name
}

// members are those of a bridge.
func (s *kernelStacks) members(bridge string) (names []string, err error) {
	b := make([]byte, sizeMembers) // without room the kernel tells what they would take
	if err := s.host.bridge(unix.SIOCGDRVSPEC, bridge, bridgeMembers, b); err != nil {
		return nil, fmt.Errorf("members of bridge %s: %w", bridge, err)
	}
	list := make([]byte, max(sizeBridgeReq, binary.NativeEndian.Uint32(b)+sizeBridgeReq))
	binary.NativeEndian.PutUint32(b, uint32(len(list)))
	binary.NativeEndian.PutUint64(b[8:], uint64(uintptr(unsafe.Pointer(&list[0]))))
	err = s.host.bridge(unix.SIOCGDRVSPEC, bridge, bridgeMembers, b)
	runtime.KeepAlive(list)
	if err != nil {
		return nil, fmt.Errorf("members of bridge %s: %w", bridge, err)
	}
	for n := binary.NativeEndian.Uint32(b); n >= sizeBridgeReq; n -= sizeBridgeReq {
		names = append(names, unix.ByteSliceToString(list[:nameSize]))
		list = list[sizeBridgeReq:]
	}
	return names, nil
}

// sizeBridgeParam is struct ifbropreq, sizeMembers struct ifbifconf of net/if_bridgevar.h.
const sizeBridgeParam, sizeMembers = 56, 16

// ownBridge tells how freejail's bridge of a network is described.
func (s *kernelStacks) ownBridge(n Network) string { return s.about("network:" + n.Name) }

// makeBridge makes freejail's bridge with the gateway's addresses, or has it be as it is to be.
func (s *kernelStacks) makeBridge(n Network, name string) error {
	if !s.host.has(name) {
		made, err := s.newBridge(n)
		if err != nil {
			return err
		}
		if err := s.host.rename(made, name); err != nil {
			return err
		}
	}
	if s.host.description(name) != s.ownBridge(n) {
		return fmt.Errorf("interface %s is not the bridge of network %s that this daemon makes: "+
			"another name of the network, or of the interface, is needed", name, n.Name)
	}
	if err := s.shapeBridge(n, name); err != nil {
		return err
	}
	if err := s.giveAddresses(name, gateways(n)); err != nil {
		return err
	}
	return s.host.addGroup(name, group)
}

// shapeBridge gives a bridge its MAC and MTU and brings it up.
func (s *kernelStacks) shapeBridge(n Network, name string) error {
	sum := sha256.Sum256([]byte(s.ownBridge(n)))
	mac := append(net.HardwareAddr{0x02}, sum[:5]...)
	mtu := n.MTU
	if mtu == 0 {
		mtu = 1500
	}
	set, clear := uint32(ndDisabled|ndNoDAD), uint32(ndAutoLinkLocal|ndAcceptRA)
	if n.Subnet6.IsValid() {
		set, clear = ndNoDAD, ndDisabled|ndAutoLinkLocal|ndAcceptRA
	}
	if err := s.host.setND(name, set, clear); err != nil {
		return err
	}
	if err := s.host.setMAC(name, mac); err != nil {
		return err
	}
	if err := s.host.setMTU(name, mtu); err != nil {
		return err
	}
	return s.host.up(name)
}

// newBridge makes a bridge under a number that nobody else uses, as with links.
func (s *kernelStacks) newBridge(n Network) (string, error) {
	sum := sha256.Sum256([]byte(s.ownBridge(n)))
	first := binary.BigEndian.Uint64(sum[:])
	for try := range uint64(64) {
		name := fmt.Sprintf("bridge%d", ownNumbers+(first+try)%ownNumbers)
		err := s.links.create("bridge", name, s.ownBridge(n))
		if errors.Is(err, unix.EEXIST) && s.host.description(name) != s.ownBridge(n) {
			continue // somebody else's
		}
		if errors.Is(err, unix.EEXIST) {
			err = nil // made by a daemon that has ended since
		}
		return name, err
	}
	return "", fmt.Errorf("make a bridge for network %s: no number is free", n.Name)
}

// ownNumbers is where the numbers of freejail's interfaces begin, and how many there are: 32767 is the greatest
// that the kernel gives to a bridge or an epair (IF_MAXUNIT of net/if.h).
const ownNumbers = 16384

// gateways are the addresses of freejail's bridge of a network.
func gateways(n Network) (list []netip.Prefix) {
	if n.Gateway4.IsValid() {
		list = append(list, netip.PrefixFrom(n.Gateway4, n.Subnet4.Bits()))
	}
	if n.Gateway6.IsValid() {
		list = append(list, netip.PrefixFrom(n.Gateway6, n.Subnet6.Bits()))
	}
	if n.Subnet6.IsValid() {
		list = append(list, gatewayLink)
	}
	return list
}

// giveAddresses gives a bridge the addresses that it is to have. What it had by an earlier configuration is taken
// away, and what it has stays untouched: tasks may use it.
func (s *kernelStacks) giveAddresses(name string, want []netip.Prefix) error {
	index, err := s.host.index(name)
	if err != nil {
		return err
	}
	all, err := addressesAt(index)
	has := map[netip.Prefix]bool{}
	for _, a := range all {
		if err != nil {
			break
		}
		if has[a.Prefix] = true; !slices.Contains(want, a.Prefix) {
			err = s.host.delAddr(name, a.Addr())
		}
	}
	for _, p := range want {
		if err == nil && !has[p] {
			err = s.host.addAddr(name, p, false)
		}
	}
	return err
}

// join makes the host's end of a link a member of a bridge. On freejail's own it speaks with the gateway alone,
// and has the one MAC that it was given, which the host knows.
func (s *kernelStacks) join(n Network, e Endpoint, bridge string, mac net.HardwareAddr, mtu int) error {
	member := memberReq(e.Link)
	if s.host.bridge(unix.SIOCGDRVSPEC, bridge, bridgeGetFlags, member) != nil {
		if err := s.host.setMTU(e.Link, mtu); err != nil {
			return err
		}
		if err := s.host.setMAC(e.Link, hostMAC(mac)); err != nil {
			return err
		}
		if err := s.host.bridge(unix.SIOCSDRVSPEC, bridge, bridgeAdd, member); err != nil {
			return fmt.Errorf("add %s to bridge %s: %w", e.Link, bridge, err)
		}
	}
	if n.Mode == Bridged && !n.Isolate {
		return nil
	}
	if err := s.confine(n, e.Link, bridge, mac); err != nil || n.Mode != NAT {
		return err
	}
	return s.know(e, bridge, mac)
}

const bridgeFlagsAt = nameSize // ifbr_ifsflags

// confine sets the flags of a member, all of which a request replaces.
func (s *kernelStacks) confine(n Network, end, bridge string, mac net.HardwareAddr) error {
	member := memberReq(end)
	if err := s.host.bridge(unix.SIOCGDRVSPEC, bridge, bridgeGetFlags, member); err != nil {
		return fmt.Errorf("member %s of bridge %s: %w", end, bridge, err)
	}
	flags := binary.NativeEndian.Uint32(member[bridgeFlagsAt:]) | memberPrivate
	if n.Mode == NAT {
		flags &^= memberLearns | memberDiscovers
	}
	binary.NativeEndian.PutUint32(member[bridgeFlagsAt:], flags)
	err := s.host.bridge(unix.SIOCSDRVSPEC, bridge, bridgeSetFlags, member)
	if err == nil && n.Mode == NAT {
		err = s.host.bridge(unix.SIOCSDRVSPEC, bridge, bridgeStatic, staticReq(end, mac))
	}
	if err != nil {
		return fmt.Errorf("member %s of bridge %s: %w", end, bridge, err)
	}
	return nil
}

// hostMAC is that of the host's end of a link, which is seen by nobody.
func hostMAC(task net.HardwareAddr) net.HardwareAddr {
	mac := append(net.HardwareAddr{}, task...)
	mac[0] = 0x06
	return mac
}
