package network

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// rejoins wants endpoints to be cut off, and be connected by rejoin.
func (h *host) rejoins(n Network, list ...Endpoint) {
	h.Helper()
	cut, err := h.stacks.cut(n, list)
	if err != nil || len(cut) != len(list) {
		h.Errorf("cut off: %d of %d: %v", len(cut), len(list), err)
	}
	for _, e := range cut {
		h.must(h.stacks.rejoin(n, e))
	}
	if cut, err := h.stacks.cut(n, list); err != nil || len(cut) > 0 {
		h.Errorf("still cut off: %+v: %v", cut, err)
	}
}

// bridgeAnew makes the operator's bridge again, which is gone.
func (h *host) bridgeAnew() netlink.Link {
	h.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	h.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	b, err := netlink.LinkByName("br0")
	h.must(err)
	up, err := netlink.LinkByName("up0")
	h.must(err)
	h.must(netlink.LinkSetMaster(up, b))
	for _, p := range []string{"198.51.100.1/24", "2001:db8:1::1/64"} {
		h.must(netlink.AddrAdd(b, address(netip.MustParsePrefix(p))))
	}
	h.must(netlink.LinkSetUp(b))
	b, err = netlink.LinkByName("br0")
	h.must(err)
	return b
}

func (h *host) removed(name string) {
	h.Helper()
	l, err := netlink.LinkByName(name)
	h.must(err)
	h.must(netlink.LinkDel(l))
}

// TestBridgeMadeAnew: tasks are on the operator's bridge again when it was destroyed and made anew, or when their
// links were taken off it; its MAC and MTU are its own.
func TestBridgeMadeAnew(t *testing.T) {
	n := bridgedNetwork()
	h := newHost(t, n)
	h.operatorsBridge()
	a, b := *h.task(n, 10), *h.task(n, 11)
	h.load()
	h.serve(h.ns(a), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	if cut, err := h.stacks.cut(n, []Endpoint{a.Endpoint, b.Endpoint}); err != nil || len(cut) > 0 {
		t.Fatalf("cut off: %+v: %v", cut, err)
	}
	h.removed("br0")
	if cut, err := h.stacks.cut(n, []Endpoint{a.Endpoint, b.Endpoint}); err == nil || len(cut) != 2 {
		t.Errorf("without its bridge: %+v: %v", cut, err)
	}
	before := h.bridgeAnew().Attrs()
	h.rejoins(n, a.Endpoint, b.Endpoint)
	for _, addr := range []netip.Addr{a.Addr4, a.Addr6} {
		h.reach("the outside", h.out, "tcp", at(addr, 8080), "t10")
		h.reach("the neighbour", h.ns(b), "tcp", at(addr, 8080), "t10")
	}
	now, err := netlink.LinkByName("br0")
	h.must(err)
	if now.Attrs().MTU != before.MTU || now.Attrs().HardwareAddr.String() != before.HardwareAddr.String() {
		t.Errorf("the bridge had %+v, and has %+v", before, now.Attrs())
	}
	l, err := netlink.LinkByName(a.Link)
	h.must(err)
	h.must(netlink.LinkSetNoMaster(l))
	h.rejoins(n, a.Endpoint)
	h.removed(a.Link)
	h.rejoins(n, a.Endpoint)
	h.reach("the outside", h.out, "tcp", at(a.Addr4, 8080), "t10")
}

// TestGatewayIsPutBack: freejail's bridge, its addresses and the routes to tasks are put back.
func TestGatewayIsPutBack(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	a, b := *h.task(n, 10), *h.task(n, 11)
	h.load()
	h.serve(h.ns(a), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	list := []Endpoint{a.Endpoint, b.Endpoint}
	if cut, err := h.stacks.cut(n, list); err != nil || len(cut) > 0 {
		t.Fatalf("cut off: %+v: %v", cut, err)
	}
	all := func() {
		h.rejoins(n, list...)
		for _, addr := range []netip.Addr{a.Addr4, a.Addr6} {
			h.reach("the host", "", "tcp", at(addr, 8080), "t10")
		}
	}
	h.removed(n.OwnBridge())
	all()
	l, err := netlink.LinkByName(n.OwnBridge())
	h.must(err)
	for _, p := range []netip.Prefix{netip.PrefixFrom(n.Gateway4, n.Subnet4.Bits()),
		netip.PrefixFrom(n.Gateway6, n.Subnet6.Bits())} {
		h.must(netlink.AddrDel(l, address(p)))
		all()
	}
	h.must(setSysctl("ipv4/ip_forward", "0"))
	if cut, err := h.stacks.cut(n, list); err == nil || len(cut) != 2 {
		t.Errorf("without forwarding: %+v: %v", cut, err)
	}
	h.must(setSysctl("ipv4/ip_forward", "1"))
}

// TestAliasIsPutBack: an address of a task is on its interface again.
func TestAliasIsPutBack(t *testing.T) {
	n := aliasNetwork()
	h := newHost(t, n)
	e := aliasEndpoint(10)
	h.must(h.stacks.attach(n, e))
	h.tasks = append(h.tasks, Task{Key: "alias", Endpoint: e})
	if cut, err := h.stacks.cut(n, []Endpoint{e}); err != nil || len(cut) > 0 {
		t.Fatalf("cut off: %+v: %v", cut, err)
	}
	l, err := netlink.LinkByName(n.Interface)
	h.must(err)
	for _, a := range e.addrs() {
		h.must(netlink.AddrDel(l, address(netip.PrefixFrom(a, a.BitLen()))))
		h.rejoins(n, e)
	}
	h.must(netlink.LinkSetDown(l))
	if cut, err := h.stacks.cut(n, []Endpoint{e}); err == nil || len(cut) != 1 {
		t.Errorf("with its interface down: %+v: %v", cut, err)
	}
	h.must(netlink.LinkSetUp(l))
}
