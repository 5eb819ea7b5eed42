package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// frame sends one from the task's end of a link, as a task may that has CAP_NET_RAW.
func (h *host) frame(t Task, etherType uint16, from, to net.HardwareAddr, payload []byte) {
	h.Helper()
	h.in(h.ns(t), func() error {
		l, err := netlink.LinkByName(taskEnd)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		b := binary.BigEndian.AppendUint16(slices.Concat(to, from), etherType)
		err = unix.Sendto(fd, append(b, payload...), 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
		return errors.Join(err, unix.Close(fd))
	})
}

func parseMAC(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// hostEnd is the MAC of the host's end of a task's link.
func (h *host) hostEnd(t Task) net.HardwareAddr {
	h.Helper()
	l, err := netlink.LinkByName(t.Link)
	h.must(err)
	return l.Attrs().HardwareAddr
}

// datagram is a packet of UDP, whose checksums are right.
func datagram(from, to netip.Addr, port uint16, text string) (etherType uint16, b []byte) {
	udp := slices.Concat(be(1000), be(port), be(uint16(8+len(text))), be(0), []byte(text))
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), be(0), be(uint16(len(udp))), be(0), be(unix.IPPROTO_UDP))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if from.Is6() {
		head := slices.Concat([]byte{0x60, 0, 0, 0}, be(uint16(len(udp))), []byte{unix.IPPROTO_UDP, 64},
			from.AsSlice(), to.AsSlice())
		return 0x86dd, append(head, udp...)
	}
	head := slices.Concat([]byte{0x45, 0}, be(uint16(20+len(udp))), be(1), be(0), []byte{64, unix.IPPROTO_UDP}, be(0),
		from.AsSlice(), to.AsSlice())
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return 0x0800, append(head, udp...)
}

func be(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// inbox hears datagrams in a namespace.
func (h *host) inbox(ns string, port uint16) *net.UDPConn {
	h.Helper()
	var c *net.UDPConn
	h.in(ns, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		return err
	})
	h.Cleanup(func() { c.Close() })
	return c
}

// hears returns the next datagram, or "" if there is none until a last one has come.
func (h *host) hears(c *net.UDPConn, last func()) []string {
	h.Helper()
	last()
	var all []string
	b := make([]byte, 100)
	h.must(c.SetReadDeadline(time.Now().Add(5 * time.Second)))
	for {
		n, _, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			h.Fatalf("the last one does not come: %v; %q", err, all)
		}
		if string(b[:n]) == "last" {
			return all
		}
		all = append(all, string(b[:n]))
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	h.task(n, 10)
	h.task(n, 11)
	h.load()
	bad, neighbour := h.tasks[0], h.tasks[1]
	for _, hears := range []struct {
		ns   string
		four netip.Addr
		six  netip.Addr
	}{{h.ns(neighbour), neighbour.Addr4, neighbour.Addr6}, {h.out, outside4, outside6}} {
		c := h.inbox(hears.ns, 7000)
		send := func(from, to netip.Addr, text string) {
			e, b := datagram(from, to, 7000, text)
			h.frame(bad, e, parseMAC(t, bad.MAC), h.hostEnd(bad), b)
		}
		for _, f := range []struct {
			own, to netip.Addr
			forged  []netip.Addr
		}{
			{bad.Addr4, hears.four, []netip.Addr{neighbour.Addr4, n.Gateway4, nth(n.Subnet4, 99), hostAddr4,
				netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("127.0.0.1")}},
			{bad.Addr6, hears.six, []netip.Addr{neighbour.Addr6, n.Gateway6, hostAddr6, netip.MustParseAddr("fe80::1")}},
		} {
			got := h.hears(c, func() {
				for _, from := range f.forged {
					send(from, f.to, from.String())
				}
				send(f.own, f.to, "own")
				send(f.own, f.to, "last")
			})
			if !slices.Equal(got, []string{"own"}) {
				t.Errorf("heard %q", got)
			}
		}
	}
}

// arp says that an address has a MAC, in a request (1) or a reply (2) (RFC 826).
func arp(op uint16, mac net.HardwareAddr, a netip.Addr, to net.HardwareAddr, toAddr netip.Addr) []byte {
	return slices.Concat(be(1), be(0x0800), []byte{6, 4}, be(op), mac, a.AsSlice(), to, toAddr.AsSlice())
}

// advertisement says so by IPv6 (RFC 4861); it overrides.
func advertisement(mac net.HardwareAddr, a, from, to netip.Addr) []byte {
	body := slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice(), []byte{2, 1}, mac)
	return icmp6Packet(from, to, body)
}

func icmp6Packet(from, to netip.Addr, body []byte) []byte {
	pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), be(0), be(uint16(len(body))), be(0), be(unix.IPPROTO_ICMPV6))
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	return slices.Concat([]byte{0x60, 0, 0, 0}, be(uint16(len(body))), []byte{unix.IPPROTO_ICMPV6, 255},
		from.AsSlice(), to.AsSlice(), body)
}

// claims has a task say by ARP and neighbour discovery that it has addresses of others.
func (h *host) claims(bad Task, four, six []netip.Addr, hears net.HardwareAddr) {
	h.Helper()
	all := parseMAC(h.T, "ff:ff:ff:ff:ff:ff")
	mac := parseMAC(h.T, bad.MAC)
	for _, a := range four {
		for _, to := range []net.HardwareAddr{all, hears} {
			h.frame(bad, 0x0806, mac, to, arp(2, mac, a, to, a))
			h.frame(bad, 0x0806, mac, to, arp(1, mac, a, hears, hostAddr4))
		}
	}
	nodes := netip.MustParseAddr("ff02::1")
	for _, a := range six {
		for _, from := range []netip.Addr{a, bad.Addr6, linkLocal(mac)} {
			h.frame(bad, 0x86dd, mac, parseMAC(h.T, "33:33:00:00:00:01"), advertisement(mac, a, from, nodes))
			h.frame(bad, 0x86dd, mac, hears, advertisement(mac, a, from, nodes))
		}
	}
}

func TestClaimsOfNeighboursAddressesAreNotHeard(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	h.task(n, 10)
	h.task(n, 11)
	h.task(n, 12)
	h.load()
	bad, neighbour, third := h.tasks[0], h.tasks[1], h.tasks[2]
	for _, task := range h.tasks {
		h.serve(h.ns(task), "tcp", at(netip.IPv6Unspecified(), 8080), task.Key)
	}
	h.in(h.ns(bad), func() error { // as it would, to get what is sent to its neighbour
		l, err := netlink.LinkByName(taskEnd)
		return errors.Join(err, netlink.AddrAdd(l, address(netip.PrefixFrom(neighbour.Addr4, 32))),
			netlink.AddrAdd(l, address(netip.PrefixFrom(neighbour.Addr6, 128))),
			netlink.AddrAdd(l, address(netip.PrefixFrom(hostAddr4, 32))))
	})
	h.must(setSysctl("ipv4/conf/all/rp_filter", "2")) // which is stronger than that of an interface
	h.claims(bad, []netip.Addr{neighbour.Addr4, n.Gateway4, outside4}, []netip.Addr{neighbour.Addr6, n.Gateway6},
		h.hostEnd(bad))
	h.must(setSysctl("ipv4/conf/all/rp_filter", "0"))
	for _, from := range []string{"", h.ns(third)} {
		h.reach("the host or a task", from, "tcp", at(neighbour.Addr4, 8080), neighbour.Key)
		h.reach("the host or a task", from, "tcp", at(neighbour.Addr6, 8080), neighbour.Key)
	}
	h.serve(h.out, "tcp", at(netip.IPv6Unspecified(), 9000), "outside")
	h.reach("a task", h.ns(third), "tcp", at(outside4, 9000), "outside")
	h.reach("a task", h.ns(third), "tcp", at(outside6, 9000), "outside")
	list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	h.must(err)
	for _, e := range list {
		l, err := netlink.LinkByIndex(e.LinkIndex)
		h.must(err)
		if l.Attrs().Group == h.stacks.group && e.State&netlink.NUD_PERMANENT == 0 && e.State&netlink.NUD_NOARP == 0 {
			t.Errorf("the host has learnt %v of %s", e.IP, l.Attrs().Name)
		}
	}
}

func TestUnpublishedIsNotReached(t *testing.T) {
	n, other := natNetwork("web", 1), natNetwork("other", 2)
	h := newHost(t, n, other)
	task := *h.task(n, 10, Port{"tcp", 8080, 1})
	stranger := *h.task(other, 20)
	h.load()
	h.in(h.out, func() error { // as one may that knows of the network
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(n.Subnet4), Gw: hostAddr4.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Dst: ipNet(n.Subnet6), Gw: hostAddr6.AsSlice()}))
	})
	for _, p := range []string{"tcp", "udp"} {
		h.serve(h.ns(task), p, at(netip.IPv6Unspecified(), 8080), task.Key)
		for _, a := range []netip.Addr{task.Addr4, task.Addr6} {
			h.reach("the host", "", p, at(a, 8080), task.Key)
			h.refused("the outside", h.out, p, at(a, 8080))
			h.refused("another network", h.ns(stranger), p, at(a, 8080))
		}
		h.refused("the outside", h.out, p, at(hostAddr4, 8080))
	}
}

func TestOutsideCannotTakeATasksAddress(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	task := *h.task(n, 10)
	h.load()
	c := h.inbox("", 7000)
	send := func(from netip.Addr, text string) error {
		u, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: hostAddr4.AsSlice(), Port: 7000})
		if err == nil {
			_, err = u.Write([]byte(text))
		}
		return err
	}
	h.in(h.out, func() error {
		l, err := netlink.LinkByName(taskEnd)
		return errors.Join(err, netlink.AddrAdd(l, address(netip.PrefixFrom(task.Addr4, 32))))
	})
	got := h.hears(c, func() {
		h.in(h.out, func() error { return errors.Join(send(task.Addr4, "forged"), send(outside4, "last")) })
	})
	if len(got) > 0 {
		t.Errorf("heard %q", got)
	}
}

func TestIsolatedTasksReachPublishedPortsAlone(t *testing.T) {
	n := natNetwork("web", 1)
	n.Isolate = true
	h := newHost(t, n)
	task := h.task(n, 10, Port{"tcp", 8080, 1})
	task.Published = []Publication{{Port: Port{"tcp", 8081, 1}, To: 8080}}
	neighbour := *h.task(n, 11)
	h.load()
	h.serve(h.ns(h.tasks[0]), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	for _, a := range []netip.Addr{h.tasks[0].Addr4, h.tasks[0].Addr6} {
		h.refused("the neighbour", h.ns(neighbour), "tcp", at(a, 8080))
	}
	for _, a := range []netip.Addr{hostAddr4, hostAddr6, n.Gateway4, n.Gateway6} {
		h.reach("the neighbour", h.ns(neighbour), "tcp", at(a, 8081), "t10")
		h.reach("itself", h.ns(h.tasks[0]), "tcp", at(a, 8081), "t10")
	}
}

func TestHostsServicesAreNotReached(t *testing.T) {
	n, other := natNetwork("web", 1), natNetwork("other", 2)
	n.HostAccess = []Port{{"udp", 53, 1}, {"tcp", 5432, 2}}
	h := newHost(t, n, other)
	task, stranger := *h.task(n, 10), *h.task(other, 20)
	h.load()
	for _, s := range []struct {
		proto string
		port  uint16
	}{{"udp", 53}, {"tcp", 53}, {"tcp", 5432}, {"tcp", 5433}, {"tcp", 5434}} {
		h.serve("", s.proto, at(netip.IPv6Unspecified(), s.port), "host")
		open := s.proto == "udp" || s.port == 5432 || s.port == 5433
		for _, g := range []netip.Addr{n.Gateway4, n.Gateway6} {
			if open {
				h.reach("a task", h.ns(task), s.proto, at(g, s.port), "host")
			} else {
				h.refused("a task", h.ns(task), s.proto, at(g, s.port))
			}
			h.refused("a task of another network", h.ns(stranger), s.proto, at(g, s.port))
		}
		for _, a := range []netip.Addr{hostAddr4, hostAddr6, other.Gateway4} {
			h.refused("a task", h.ns(task), s.proto, at(a, s.port))
		}
		h.reach("the outside", h.out, s.proto, at(hostAddr4, s.port), "host")
	}
}

// operatorsBridge makes a bridge br0, with the outside in it, and the host's address 198.51.100.1.
func (h *host) operatorsBridge() netlink.Link {
	h.Helper()
	h.must(os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0))
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	h.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	h.Cleanup(func() { h.must(removeLink("br0")) })
	b, err := netlink.LinkByName("br0")
	h.must(err)
	up, err := netlink.LinkByName("up0")
	h.must(err)
	for _, p := range []string{"198.51.100.1/24", "2001:db8:1::1/64"} {
		h.must(netlink.AddrDel(up, address(netip.MustParsePrefix(p))))
		h.must(netlink.AddrAdd(b, address(netip.MustParsePrefix(p))))
	}
	h.must(netlink.LinkSetMaster(up, b))
	h.must(netlink.LinkSetUp(b))
	b, err = netlink.LinkByName("br0")
	h.must(err)
	return b
}

func bridgedNetwork() Network {
	return Network{Name: "lan", Mode: Bridged, Bridge: "br0", Subnet4: netip.MustParsePrefix("198.51.100.0/24"),
		Subnet6: netip.MustParsePrefix("2001:db8:1::/64"), Gateway4: outside4, Gateway6: outside6,
		HostAccess: []Port{{"tcp", 53, 1}}}
}

func TestBridged(t *testing.T) {
	n := bridgedNetwork()
	h := newHost(t, n)
	before := h.operatorsBridge().Attrs()
	n.MTU = 1400
	task := *h.task(n, 10)
	n.MTU = 0
	neighbour := *h.task(n, 11)
	h.load()
	h.serve(h.ns(task), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	for _, a := range []netip.Addr{task.Addr4, task.Addr6} {
		h.reach("the host", "", "tcp", at(a, 8080), "t10")
		h.reach("the outside", h.out, "tcp", at(a, 8080), "t10")
		h.reach("the neighbour", h.ns(neighbour), "tcp", at(a, 8080), "t10")
	}
	h.serve(h.out, "tcp", at(netip.IPv6Unspecified(), 9000), "outside")
	if from := h.reach("a task", h.ns(task), "tcp", at(outside4, 9000), "outside"); from != task.Addr4.String() {
		t.Errorf("the outside sees %s", from)
	}
	h.serve("", "tcp", at(netip.IPv6Unspecified(), 53), "host")
	h.serve("", "tcp", at(netip.IPv6Unspecified(), 22), "host")
	for _, a := range []netip.Addr{hostAddr4, hostAddr6} {
		h.reach("a task", h.ns(task), "tcp", at(a, 53), "host")
		h.refused("a task", h.ns(task), "tcp", at(a, 22))
		h.reach("the outside", h.out, "tcp", at(a, 22), "host")
	}
	onLink := linkLocal(before.HardwareAddr).WithZone("eth0")
	h.refused("a task", h.ns(task), "tcp", at(onLink, 22))
	b, err := netlink.LinkByName("br0")
	h.must(err)
	if b.Attrs().MTU != before.MTU || b.Attrs().HardwareAddr.String() != before.HardwareAddr.String() {
		t.Errorf("the bridge had MTU %d and MAC %s, and has %d and %s", before.MTU, before.HardwareAddr, b.Attrs().MTU,
			b.Attrs().HardwareAddr)
	}
}

func TestBridgedIsolate(t *testing.T) {
	n := bridgedNetwork()
	n.Isolate = true
	h := newHost(t, n)
	h.operatorsBridge()
	task, neighbour := *h.task(n, 10), *h.task(n, 11)
	h.load()
	h.serve(h.ns(task), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	h.reach("the outside", h.out, "tcp", at(task.Addr4, 8080), "t10")
	h.refused("the neighbour", h.ns(neighbour), "tcp", at(task.Addr4, 8080))
	h.refused("the neighbour", h.ns(neighbour), "tcp", at(task.Addr6, 8080))
}

func TestBridgedClaimsAreDropped(t *testing.T) {
	n := bridgedNetwork()
	h := newHost(t, n)
	h.operatorsBridge()
	bad, neighbour := *h.task(n, 10), *h.task(n, 11)
	h.load()
	h.serve(h.ns(neighbour), "tcp", at(netip.IPv6Unspecified(), 8080), "t11")
	for _, a := range []netip.Addr{neighbour.Addr4, neighbour.Addr6} {
		h.reach("the outside", h.out, "tcp", at(a, 8080), "t11")
		h.reach("the host", "", "tcp", at(a, 8080), "t11")
	}
	var outMAC net.HardwareAddr
	h.in(h.out, func() error {
		l, err := netlink.LinkByName(taskEnd)
		outMAC = l.Attrs().HardwareAddr
		return err
	})
	h.claims(bad, []netip.Addr{neighbour.Addr4, hostAddr4}, []netip.Addr{neighbour.Addr6, hostAddr6}, outMAC)
	mac := parseMAC(t, bad.MAC)
	router := icmp6Packet(linkLocal(mac), netip.MustParseAddr("ff02::1"), // 1800 s, no options
		[]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	h.frame(bad, 0x86dd, mac, parseMAC(t, "33:33:00:00:00:01"), router)
	h.in(h.out, func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, e := range list {
			if a, _ := netip.AddrFromSlice(e.IP); e.HardwareAddr.String() == bad.MAC && a.Unmap() != bad.Addr4 &&
				a != bad.Addr6 && a != linkLocal(mac) {
				t.Errorf("the outside believes that %s is the task's", a)
			}
		}
		routes, err2 := netlink.RouteList(nil, netlink.FAMILY_V6)
		for _, r := range routes {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() && r.Gw != nil {
				t.Errorf("the outside has a route %s", r)
			}
		}
		return errors.Join(err, err2)
	})
	for _, a := range []netip.Addr{neighbour.Addr4, neighbour.Addr6} {
		h.reach("the outside", h.out, "tcp", at(a, 8080), "t11")
	}
	h.bridgedForgeries(bad, neighbour, outMAC)
}

// bridgedForgeries sends what has another's MAC, address or VLAN.
func (h *host) bridgedForgeries(bad, neighbour Task, outMAC net.HardwareAddr) {
	h.Helper()
	mac, other := parseMAC(h.T, bad.MAC), parseMAC(h.T, neighbour.MAC)
	c := h.inbox(h.out, 7000)
	got := h.hears(c, func() {
		for _, from := range []netip.Addr{neighbour.Addr4, hostAddr4, bad.Addr4} {
			text := "forged"
			if from == bad.Addr4 {
				text = "last"
			}
			e, b := datagram(from, outside4, 7000, text)
			h.frame(bad, e, other, outMAC, b)
			// in a VLAN of its choice
			h.frame(bad, 0x8100, mac, outMAC, slices.Concat(be(0), be(e), b))
			h.frame(bad, e, mac, outMAC, b)
		}
	})
	if len(got) > 0 {
		h.Errorf("heard %q", got)
	}
}

// TestBridgeWithoutPorts: the kernel takes the MAC from a bridge with its last port.
func TestBridgeWithoutPorts(t *testing.T) {
	n := bridgedNetwork()
	h := newHost(t, n)
	h.operatorsBridge()
	up, err := netlink.LinkByName("up0")
	h.must(err)
	h.must(netlink.LinkSetNoMaster(up))
	for range 2 {
		task := h.task(n, 10)
		h.load()
		h.serve(h.ns(*task), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
		h.reach("the host", "", "tcp", at(task.Addr4, 8080), "t10")
		h.must(h.stacks.detach(task.Endpoint))
		h.tasks = nil
	}
}
