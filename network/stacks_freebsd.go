package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

const (
	// group is that of all interfaces of freejail's which are complete.
	group = "freejail"
	// taskLink is a task's end of its link, loopbackLink the other interface of its stack.
	taskLink, loopbackLink = "eth0", "lo0"
)

var (
	loopback4   = netip.MustParsePrefix("127.0.0.1/8")
	gatewayLink = netip.MustParsePrefix("fe80::1/64") // the gateway of IPv6, on freejail's bridges
	everywhere  = map[bool]netip.Prefix{true: netip.MustParsePrefix("0.0.0.0/0"), false: netip.MustParsePrefix("::/0")}
)

// kernelStacks are owner jails with a stack each, pairs of epair(4) and bridges of if_bridge(4).
type kernelStacks struct {
	dir      string // of the state, as the kernel has its path
	networks []Network
	host     sockets
	links    links

	mu      sync.Mutex // of the bridges
	bridges map[string]Network

	// changing has interfaces come and go one at a time. A thread that waits for pf's rules to tell them of one that
	// came, and one that takes another away and waits for that thread (epoch(9)), wait in one queue, of which who leads
	// a packet by the rules wakes one thread (_rm_unlock_hard in sys/kern/kern_rmlock.c): the other waits on, and with
	// it every change of the host's interfaces.
	changing sync.Mutex
}

func newStacks(cfg Config) (stacks, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network stacks need root")
	}
	dir, err := filepath.EvalSymlinks(cfg.StateDir)
	if errors.Is(err, fs.ErrNotExist) { // before the first daemon there is none
		dir, err = cfg.StateDir, nil
	}
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, err
	}
	s := &kernelStacks{dir: dir, networks: cfg.Networks, bridges: map[string]Network{}}
	s.host, err = openSockets()
	s.host.mark = aliasMarkOf(dir)
	return s, err
}

// about is the description of an interface that is of a stack or of a network.
func (s *kernelStacks) about(what string) string { return "freejail " + what + " " + s.dir }

// other is the task's end of a link, before it has its own name.
func other(link string) string { return link[:len(link)-1] + "b" }

func (s *kernelStacks) attach(n Network, e Endpoint) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.make(n, e)
}

func (s *kernelStacks) make(n Network, e Endpoint) error {
	if e.Mode == Alias {
		return s.attachAlias(n, e)
	}
	if e.Link != "" {
		if done, err := s.hasLink(e); done || err != nil {
			return err
		}
	}
	jid, err := s.ownerJail(e.Stack)
	if err != nil {
		return err
	}
	if e.Link == "" {
		return s.within(jid, func(in sockets) error { return in.loopbackUp() })
	}
	return s.connect(n, e, jid)
}

// hasLink tells whether the link is complete. That of somebody else is an error.
func (s *kernelStacks) hasLink(e Endpoint) (complete bool, err error) {
	if !s.host.has(e.Link) {
		return false, nil
	}
	if s.host.description(e.Link) != s.about(e.Stack) {
		return false, fmt.Errorf("%w: %s", ErrLinkTaken, e.Link)
	}
	groups, err := s.host.groups(e.Link)
	for _, g := range groups {
		complete = complete || g == group
	}
	return complete, err
}

// connect makes the link between the host and the stack of a jail. Each step may have been done before.
func (s *kernelStacks) connect(n Network, e Endpoint, jid int) error {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	bridge, err := s.bridgeOf(n)
	if err != nil {
		return err
	}
	mtu, err := s.host.mtu(bridge)
	if err != nil {
		return err
	}
	if err := s.makeLink(e); err != nil {
		return err
	}
	if err := s.join(n, e, bridge, mac, mtu); err != nil {
		return err
	}
	if n.MTU > 0 {
		mtu = min(mtu, n.MTU)
	}
	if err := s.move(e, jid, mac, mtu); err != nil {
		return err
	}
	// A member of a bridge has no address, not even one that the kernel gives it.
	if err := s.host.setND(e.Link, ndDisabled, ndAutoLinkLocal|ndAcceptRA); err != nil {
		return err
	}
	if err := s.host.up(e.Link); err != nil {
		return err
	}
	if err := s.within(jid, func(in sockets) error { return in.configure(n, e) }); err != nil {
		return err
	}
	return s.host.addGroup(e.Link, group)
}

// makeLink makes the two ends.
func (s *kernelStacks) makeLink(e Endpoint) error {
	if s.host.has(e.Link) {
		return nil // ours, see hasLink
	}
	err := s.links.create("epair", e.Link[:len(e.Link)-1], s.about(e.Stack))
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %s", ErrLinkTaken, e.Link)
	}
	return err
}

// move gives the task's end its MAC, and moves it into the jail.
func (s *kernelStacks) move(e Endpoint, jid int, mac net.HardwareAddr, mtu int) error {
	end := other(e.Link)
	if !s.host.has(end) {
		return nil
	}
	if err := s.host.setMAC(end, mac); err != nil {
		return err
	}
	if err := s.host.setMTU(end, mtu); err != nil {
		return err
	}
	return s.host.do("move into a jail", unix.SIOCSIFVNET, numberReq(end, jid))
}

// within calls f with sockets in the stack of a jail.
func (s *kernelStacks) within(jid int, f func(in sockets) error) error {
	in, err := inside(jid, s.host.inet6 >= 0)
	if err != nil {
		return err
	}
	defer in.close()
	return f(in)
}

func (s sockets) loopbackUp() error {
	if err := s.addAddr(loopbackLink, loopback4, false); err != nil {
		return err
	}
	return s.up(loopbackLink) // which brings ::1
}

// configure makes a stack from within: when it returns, programs can bind and connect.
func (s sockets) configure(n Network, e Endpoint) error {
	if err := s.loopbackUp(); err != nil {
		return err
	}
	if !s.has(taskLink) {
		if err := s.rename(other(e.Link), taskLink); err != nil {
			return err
		}
	}
	// Without IPv6 of its network a stack has none, not even on its link. The addresses are given by
	// us, once each: nobody has to be asked for them.
	set, clear := uint32(ndDisabled|ndNoDAD), uint32(ndAutoLinkLocal|ndAcceptRA)
	if e.Addr6.IsValid() {
		set, clear = ndAutoLinkLocal|ndNoDAD, ndDisabled|ndAcceptRA|ndStableAddr // rules know it by the MAC
	}
	if err := s.setND(taskLink, set, clear); err != nil {
		return err
	}
	if err := s.up(taskLink); err != nil {
		return err
	}
	for _, a := range []struct {
		addr, gateway netip.Addr
		subnet        netip.Prefix
	}{{e.Addr4, n.Gateway4, n.Subnet4}, {e.Addr6, n.Gateway6, n.Subnet6}} {
		if !a.addr.IsValid() {
			continue
		}
		if err := s.addressAndRoutes(n.Mode, a.addr, a.gateway, a.subnet); err != nil {
			return err
		}
	}
	return nil
}

// addressAndRoutes gives the task's end an address. In nat it is alone on its network, and all that it sends
// goes by the gateway, which is the bridge: so it passes the host's filter.
func (s sockets) addressAndRoutes(m Mode, addr, gateway netip.Addr, subnet netip.Prefix) error {
	bits := addr.BitLen()
	if m == Bridged {
		bits = subnet.Bits()
	}
	if err := s.addAddr(taskLink, netip.PrefixFrom(addr, bits), false); err != nil || !gateway.IsValid() {
		return err
	}
	index, err := s.index(taskLink)
	if err != nil {
		return err
	}
	if m == NAT {
		// The gateway is on the link, though not in the address's network. IPv6 answers no neighbor
		// that is not (nd6_ns_input in netinet6/nd6_nbr.c).
		on := &route.LinkAddr{Index: index, Name: taskLink}
		if err := s.addRoute(netip.PrefixFrom(gateway, bits), on, unix.RTF_HOST); err != nil {
			return err
		}
		if addr.Is6() {
			gateway = gatewayLink.Addr()
		}
	}
	return s.addRoute(everywhere[addr.Is4()], routeAddr(gateway, zone(gateway, index)), unix.RTF_GATEWAY)
}

func zone(a netip.Addr, index int) int {
	if a.IsLinkLocalUnicast() && a.Is6() {
		return index
	}
	return 0
}

func (s *kernelStacks) detach(e Endpoint) error {
	if e.Mode == Alias {
		s.changing.Lock()
		defer s.changing.Unlock()
		return s.detachAlias(e)
	}
	jid, err := s.findOwner(e.Stack)
	if err != nil {
		return err
	}
	var errs []error
	if jid != 0 {
		errs = append(errs, s.endConnections(jid)) // which may wait for them
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	// The host's end first, and with it the task's: at the end of a stack what is in it comes home.
	errs = append(errs, s.forget(e), s.destroy(e))
	if jid != 0 {
		errs = append(errs, removeJail(jid))
	}
	return errors.Join(errs...)
}

// destroy takes a link away that is one of the stack.
func (s *kernelStacks) destroy(e Endpoint) error {
	if e.Link == "" || s.host.description(e.Link) != s.about(e.Stack) {
		return nil
	}
	err := s.host.do("removal", unix.SIOCIFDESTROY, named(sizeIfreq, e.Link))
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

// endConnections has nothing hold a jail that is below the stack's owner, and has ended.
func (s *kernelStacks) endConnections(jid int) error {
	left := make([]byte, 4)
	_, _, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "jid", Value: bsd.Word(jid)},
		{Name: "children.cur", Value: left}}, 0)
	if errors.Is(err, unix.ENOENT) || err == nil && bsd.Record(left).Int(0) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("jail %d: %w", jid, err)
	}
	_, err = (&envoy{jid: jid, drop: newDropping()}).send()
	return err
}
