package network

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/keylock"
)

// linuxStacks are network namespaces, each at a file below STATE_DIR/netns, and pairs of veth.
//
// The host's end of a task of a nat network is a port of no bridge: the host routes each address, /32
// or /128, to the link of its task. So no frame of a task reaches another, what it says by ARP or
// neighbour discovery is heard by nobody, and every packet passes the host's rules. The bridge of the
// network has no member: it has the addresses of the gateway.
type linuxStacks struct {
	state  string
	group  uint32      // of the interfaces
	making keylock.Map // bridges, by name: two attaches do not make the same one
}

func newStacks(cfg Config) (stacks, error) {
	return &linuxStacks{state: cfg.StateDir, group: linkGroup(cfg.StateDir)}, nil
}

// linkGroup is the group of a daemon's interfaces (ip link show group N): it is theirs from the moment
// in which they are made. Its first half is "fj", its second tells one state directory from another.
func linkGroup(stateDir string) uint32 {
	sum := sha256.Sum256([]byte(filepath.Clean(stateDir)))
	return 'f'<<24 | 'j'<<16 | uint32(binary.BigEndian.Uint16(sum[:]))
}

// taskEnd is the name of a link in its stack.
const taskEnd = "eth0"

func (s *linuxStacks) attach(n Network, e Endpoint) error {
	switch e.Mode {
	case None:
		return s.inside(e, true, func() error { return nil })
	case NAT:
		return s.attachNAT(n, e)
	case Bridged:
		return s.attachBridged(n, e)
	case Alias:
		return attachAlias(n, e, s.group)
	}
	return fmt.Errorf("mode %s is not available on Linux", e.Mode)
}

func (s *linuxStacks) attachNAT(n Network, e Endpoint) error {
	if err := s.makeBridge(n); err != nil {
		return err
	}
	host, err := s.connect(n, e, nil)
	if err != nil {
		return err
	}
	err = s.inside(e, false, func() error { return configureTask(n, e, host.Attrs().HardwareAddr) })
	if err != nil {
		return err
	}
	return configureHostEnd(n, e, host)
}

// attachBridged makes a link a port of the operator's bridge, which is not changed by that: its MTU is
// the port's, and so is its MAC, as a bridge takes the lowest of its ports'.
func (s *linuxStacks) attachBridged(n Network, e Endpoint) error {
	b, err := operatorsBridge(n)
	if err != nil {
		return err
	}
	host, err := s.connect(n, e, b.Attrs())
	if err != nil {
		return err
	}
	if err := s.inside(e, false, func() error { return configureBridged(n, e) }); err != nil {
		return err
	}
	if err := quietIPv6(e.Link, false); err != nil {
		return err
	}
	if err := likeBridge(host, b.Attrs()); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(host, b); err != nil {
		return fmt.Errorf("add %s to bridge %s: %w", e.Link, n.Bridge, err)
	}
	err = errors.Join(netlink.LinkSetGuard(host, true), netlink.LinkSetIsolated(host, n.Isolate))
	if err != nil {
		return fmt.Errorf("port %s of bridge %s: %w", e.Link, n.Bridge, err)
	}
	return netlink.LinkSetUp(host)
}

// likeBridge gives a link that was made for another bridge the MAC and the MTU of this one.
func likeBridge(l netlink.Link, b *netlink.LinkAttrs) error {
	if l.Attrs().MasterIndex == b.Index {
		return nil
	}
	err := netlink.LinkSetMTU(l, b.MTU)
	if err == nil && len(b.HardwareAddr) > 0 && l.Attrs().HardwareAddr.String() != b.HardwareAddr.String() {
		err = netlink.LinkSetHardwareAddr(l, b.HardwareAddr)
	}
	if err != nil {
		return fmt.Errorf("interface %s: MTU and MAC of bridge %s: %w", l.Attrs().Name, b.Name, err)
	}
	return nil
}

func operatorsBridge(n Network) (netlink.Link, error) {
	b, err := netlink.LinkByName(n.Bridge)
	switch {
	case isNoLink(err):
		return nil, lack{fmt.Errorf("there is no bridge %s", n.Bridge),
			fmt.Sprintf("ip link add %s type bridge && ip link set %[1]s up", n.Bridge)}
	case err != nil:
		return nil, fmt.Errorf("bridge %s: %w", n.Bridge, err)
	case b.Type() != "bridge":
		return nil, fmt.Errorf("interface %s is no bridge but of the type %s", n.Bridge, b.Type())
	case b.Attrs().Flags&net.FlagUp == 0:
		return nil, lack{fmt.Errorf("bridge %s is down: ip link set %[1]s up", n.Bridge),
			fmt.Sprintf("ip link set %s up", n.Bridge)}
	case n.MTU > b.Attrs().MTU:
		return nil, fmt.Errorf("mtu %d is more than the %d of bridge %s", n.MTU, b.Attrs().MTU, n.Bridge)
	}
	return b, nil
}

// makeBridge makes the bridge of a nat network, with the addresses of its gateway.
func (s *linuxStacks) makeBridge(n Network) error {
	name := n.OwnBridge()
	unlock, err := s.making.Lock(context.Background(), name)
	if err != nil {
		return err
	}
	defer unlock()
	a := netlink.NewLinkAttrs()
	a.Name, a.Group = name, s.group
	err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	if l.Type() != "bridge" || l.Attrs().Group != s.group {
		return fmt.Errorf("interface %s exists and is not this daemon's: remove it, or give the network another name",
			name)
	}
	if err := setAlias(l, fmt.Sprintf("freejail network %s of %s", n.Name, s.state)); err != nil {
		return err
	}
	if err := quietIPv6(name, n.Gateway6.IsValid()); err != nil {
		return err
	}
	if err := gateways(l, n); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	return awaitLocal(n.Gateway6)
}

// gateways has a bridge's addresses be those of the gateway.
func gateways(l netlink.Link, n Network) error {
	want := map[netip.Prefix]bool{}
	for _, g := range []struct {
		netip.Addr
		subnet netip.Prefix
	}{{n.Gateway4, n.Subnet4}, {n.Gateway6, n.Subnet6}} {
		if !g.IsValid() {
			continue
		}
		p := netip.PrefixFrom(g.Addr, g.subnet.Bits())
		want[p] = true
		if err := netlink.AddrReplace(l, address(p)); err != nil {
			return fmt.Errorf("address %s of %s: %w", p, l.Attrs().Name, err)
		}
	}
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	for _, a := range have {
		if p, ok := prefixOf(a.IPNet); ok && !want[p] {
			err = errors.Join(err, netlink.AddrDel(l, &a))
		}
	}
	return err
}

// connect makes the stack and the link of an endpoint, and returns the host's end. One that is to be a
// bridge's port gets its MAC and MTU.
func (s *linuxStacks) connect(n Network, e Endpoint, bridge *netlink.LinkAttrs) (netlink.Link, error) {
	if err := s.inside(e, true, func() error { return nil }); err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(jailStack(s.state, e.Stack))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	a := netlink.NewLinkAttrs()
	a.Name, a.Group, a.MTU = e.Link, s.group, n.MTU
	if bridge != nil {
		a.MTU, a.HardwareAddr = bridge.MTU, bridge.HardwareAddr // none, of one that has no ports
	}
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: taskEnd, PeerHardwareAddr: mac, PeerMTU: uint32(n.MTU),
		PeerNamespace: netlink.NsFd(int(ns.Fd()))})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make interface %s: %w", e.Link, err)
	}
	l, err := netlink.LinkByName(e.Link)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", e.Link, err)
	}
	if l.Attrs().Group != s.group || !s.leadsTo(l, e) {
		return nil, fmt.Errorf("interface %s: %w", e.Link, ErrLinkTaken)
	}
	return l, setAlias(l, e.Stack)
}

// leadsTo tells whether the other end of a link is in the stack of an endpoint.
func (s *linuxStacks) leadsTo(l netlink.Link, e Endpoint) bool {
	err := s.inside(e, false, func() error {
		end, err := netlink.LinkByName(taskEnd)
		if err == nil && end.Attrs().ParentIndex != l.Attrs().Index {
			err = ErrLinkTaken
		}
		return err
	})
	return err == nil
}

// configureHostEnd routes the task's addresses to its link. Both ends know the other's MAC, and nothing
// that a task sends can change it.
func configureHostEnd(n Network, e Endpoint, l netlink.Link) error {
	name := l.Attrs().Name
	err := setSysctls(map[string]string{
		"ipv4/conf/" + name + "/rp_filter":        "1", // also where the rules were lost
		"ipv4/conf/" + name + "/accept_redirects": "0",
		"ipv4/conf/" + name + "/send_redirects":   "0",
	})
	if err != nil {
		return err
	}
	if err := quietIPv6(name, e.Addr6.IsValid()); err != nil {
		return err
	}
	if err := netlink.LinkSetARPOff(l); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	for _, a := range e.ends(n) {
		if err := neighbour(l, a.task, mac); err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(a.task), Scope: netlink.SCOPE_LINK,
			Src: a.gateway.AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route to %s: %w", a.task, err)
		}
	}
	return nil
}

// configureTask gives the task's end its addresses, and its routes through the gateway.
func configureTask(n Network, e Endpoint, gatewayMAC net.HardwareAddr) error {
	l, err := netlink.LinkByName(taskEnd)
	if err != nil {
		return err
	}
	if err := quietIPv6(taskEnd, e.Addr6.IsValid()); err != nil {
		return err
	}
	for _, a := range e.ends(n) {
		if err := netlink.AddrReplace(l, address(netip.PrefixFrom(a.task, a.task.BitLen()))); err != nil {
			return fmt.Errorf("address %s: %w", a.task, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range e.ends(n) {
		if err := neighbour(l, a.gateway, gatewayMAC); err != nil {
			return err
		}
		through := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(a.gateway), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(through); err != nil {
			return fmt.Errorf("route to the gateway %s: %w", a.gateway, err)
		}
		def := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: a.gateway.AsSlice(), Dst: everything(a.gateway)}
		if err := netlink.RouteReplace(def); err != nil {
			return fmt.Errorf("default route through %s: %w", a.gateway, err)
		}
	}
	return awaitLocal(e.addrs()...)
}

// configureBridged gives the task's end its addresses in the operator's network, which learns of them.
func configureBridged(n Network, e Endpoint) error {
	l, err := netlink.LinkByName(taskEnd)
	if err != nil {
		return err
	}
	if err := bridgedSysctls(e.Addr6.IsValid()); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(e.Addr4, n.Subnet4.Bits()),
		netip.PrefixFrom(e.Addr6, n.Subnet6.Bits())} {
		if !p.IsValid() {
			continue
		}
		if err := netlink.AddrReplace(l, address(p)); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range e.ends(n) {
		if !a.gateway.IsValid() {
			continue
		}
		def := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: a.gateway.AsSlice(), Dst: everything(a.gateway)}
		if err := netlink.RouteReplace(def); err != nil {
			return fmt.Errorf("default route through %s: %w", a.gateway, err)
		}
	}
	return awaitLocal(e.addrs()...)
}

// bridgedSysctls have neighbours told of an address at once, as another task may have had it, and the
// link-local address of the MAC be there.
func bridgedSysctls(six bool) error {
	if err := quietIPv6(taskEnd, six); err != nil {
		return err
	}
	values := map[string]string{"ipv4/conf/" + taskEnd + "/arp_notify": "1"}
	if six {
		dir := "ipv6/conf/" + taskEnd + "/"
		values[dir+"addr_gen_mode"], values[dir+"ndisc_notify"] = "0", "1"
	}
	return setSysctls(values)
}

// ends are a task's address and the gateway of its family.
type ends struct{ task, gateway netip.Addr }

func (e Endpoint) ends(n Network) []ends {
	var out []ends
	for _, f := range []ends{{e.Addr4, n.Gateway4}, {e.Addr6, n.Gateway6}} {
		if f.task.IsValid() {
			out = append(out, f)
		}
	}
	return out
}

func (s *linuxStacks) detach(e Endpoint) error {
	if e.Mode == Alias {
		return detachAlias(e, s.group)
	}
	if e.Link != "" {
		if err := s.disconnect(e.Link); err != nil {
			return err
		}
	}
	if e.Stack == "" {
		return nil
	}
	return s.removeStack(e.Stack)
}

// disconnect removes a link with both of its ends, and the routes that lead to it.
func (s *linuxStacks) disconnect(name string) error {
	l, err := netlink.LinkByName(name)
	if isNoLink(err) {
		return nil
	}
	if err == nil && l.Attrs().Group == s.group {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// whole is a list of the kernel's of one moment: that of one in which something changed lacks, or has
// twice, what it has no part in.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 100
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}

func isNoLink(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}

func (s *linuxStacks) endpoints() ([]Endpoint, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	var out []Endpoint
	linked := map[string]bool{}
	for _, l := range links {
		if a := l.Attrs(); a.Group == s.group && l.Type() == "veth" {
			out = append(out, Endpoint{Stack: a.Alias, Link: a.Name})
			linked[a.Alias] = true
		}
	}
	names, err := s.stackNames()
	for _, n := range names {
		if !linked[n] {
			out = append(out, Endpoint{Stack: n})
		}
	}
	more, err2 := aliases(s.group)
	return append(out, more...), errors.Join(err, err2)
}

func (s *linuxStacks) counters() (map[string]Counters, error) {
	links, err := whole(netlink.LinkList)
	out := map[string]Counters{}
	for _, l := range links {
		a := l.Attrs()
		if a.Group != s.group || l.Type() != "veth" || a.Statistics == nil {
			continue
		}
		out[a.Name] = Counters{BytesIn: a.Statistics.TxBytes, BytesOut: a.Statistics.RxBytes,
			PacketsIn: a.Statistics.TxPackets, PacketsOut: a.Statistics.RxPackets}
	}
	return out, err
}

func (s *linuxStacks) addresses() ([]hostAddress, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	names := map[int]netlink.Link{}
	for _, l := range links {
		names[l.Attrs().Index] = l
	}
	all, err := kernelAddresses()
	var out []hostAddress
	for a, on := range all {
		if l := names[on.index]; l != nil {
			ours := l.Attrs().Group == s.group || on.mark == s.group
			out = append(out, hostAddress{Prefix: netip.PrefixFrom(a, on.bits), Interface: l.Attrs().Name, Ours: ours})
		}
	}
	return out, err
}

func (s *linuxStacks) prune(networks []Network) error {
	keep := map[string]bool{}
	for _, n := range networks {
		if n.Mode == NAT {
			keep[n.OwnBridge()] = true
		}
	}
	links, err := whole(netlink.LinkList)
	for _, l := range links {
		if a := l.Attrs(); a.Group == s.group && l.Type() == "bridge" && !keep[a.Name] {
			err = errors.Join(err, s.unmake(l))
		}
	}
	return err
}

func (s *linuxStacks) unmake(bridge netlink.Link) error {
	unlock, err := s.making.Lock(context.Background(), bridge.Attrs().Name)
	if err != nil {
		return err
	}
	defer unlock()
	return netlink.LinkDel(bridge)
}

func (s *linuxStacks) check(n Network) error {
	switch n.Mode {
	case NAT:
		return checkNAT(n)
	case Bridged:
		_, err := operatorsBridge(n)
		return err
	case Alias:
		return checkInterface(n.Interface)
	}
	return nil
}

func checkInterface(name string) error {
	l, err := netlink.LinkByName(name)
	switch {
	case isNoLink(err):
		return lack{fmt.Errorf("there is no interface %s", name),
			"`ip -br link` shows which there are: name one of them as interface of the network, or make " + name}
	case err != nil:
		return fmt.Errorf("interface %s: %w", name, err)
	case l.Attrs().Flags&net.FlagUp == 0:
		fix := fmt.Sprintf("ip link set %s up", name)
		return lack{fmt.Errorf("interface %s is down: %s", name, fix), fix}
	}
	return nil
}

func checkNAT(n Network) error {
	if n.Interface != "" {
		if err := checkInterface(n.Interface); err != nil {
			return err
		}
	}
	var err error
	if n.Subnet4.IsValid() {
		err = needSysctl("ipv4/ip_forward", "net.ipv4.ip_forward", "IPv4")
	}
	if n.Subnet6.IsValid() {
		err = errors.Join(err, needSysctl("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding", "IPv6"))
	}
	return err
}

// needSysctl tells that the host does not forward packets. It is the operator's to change: a host that
// forwards is a router, for all of its interfaces.
func needSysctl(file, name, family string) error {
	if value, err := getSysctl(file); err != nil || value != "0" {
		return err
	}
	fix := fmt.Sprintf("sysctl -w %s=1", name)
	return lack{fmt.Errorf("this host does not forward %s: %s", family, fix), fix}
}
