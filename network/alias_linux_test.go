package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func aliasNetwork() Network {
	return Network{Name: "lan", Mode: Alias, Interface: "up0", Subnet4: netip.MustParsePrefix("198.51.100.0/24"),
		Subnet6: netip.MustParsePrefix("2001:db8:1::/64")}
}

func aliasEndpoint(i int) Endpoint {
	n := aliasNetwork()
	return Endpoint{Network: n.Name, Mode: Alias, As: n, Addr4: nth(n.Subnet4, i), Addr6: nth(n.Subnet6, i)}
}

func TestAlias(t *testing.T) {
	n := aliasNetwork()
	h := newHost(t, n, natNetwork("web", 1))
	h.must(h.stacks.check(n))
	before := h.kernel()
	e := aliasEndpoint(10)
	h.must(h.stacks.attach(n, e))
	h.must(h.stacks.attach(n, e))
	for i, a := range e.addrs() {
		h.serve("", "tcp", at(a, 8080), "t10")
		h.reach("the host", "", "tcp", at(a, 8080), "t10")
		h.reach("the outside", h.out, "tcp", at(a, 8080), "t10")
		h.serve(h.out, "tcp", at([]netip.Addr{outside4, outside6}[i], 9000), "outside")
	}
	for to, from := range map[netip.Addr]netip.Addr{outside4: hostAddr4, outside6: hostAddr6} {
		if got := h.reach("the host", "", "tcp", at(to, 9000), "outside"); got != from.String() {
			t.Errorf("the host itself sends from %s", got)
		}
	}
	found, err := h.stacks.endpoints()
	h.must(err)
	if len(found) != 2 {
		t.Errorf("found %+v", found)
	}
	ours := 0
	all, err := h.stacks.addresses()
	h.must(err)
	for _, a := range all {
		if a.Ours {
			ours++
		}
	}
	if ours != 2 {
		t.Errorf("%d of %v are freejail's", ours, all)
	}
	for _, f := range found {
		h.must(h.stacks.detach(f))
	}
	h.must(h.stacks.detach(e))
	if after := h.kernel(); after != before {
		t.Errorf("the host had\n%s\nand has\n%s", before, after)
	}
}

func TestAliasTakesNoAddressOfTheHosts(t *testing.T) {
	n := aliasNetwork()
	h := newHost(t, n)
	e := aliasEndpoint(1) // the host's
	const want = "198.51.100.1 is one of the host's own"
	if err := h.stacks.attach(n, e); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
	h.must(h.stacks.detach(e))
	if addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4); err != nil || len(addrs) < 2 {
		t.Errorf("the host has lost its address: %v %v", addrs, err)
	}
	if err := h.stacks.check(Network{Mode: Alias, Interface: "no0"}); err == nil || !strings.Contains(err.Error(), "no0") {
		t.Errorf("%v", err)
	}
}

// TestTasksReachDeclaredPortsOfAlias: an address of alias is one of the host's, of whose ports tasks
// reach no others.
func TestTasksReachDeclaredPortsOfAlias(t *testing.T) {
	lan, web := aliasNetwork(), natNetwork("web", 1)
	h := newHost(t, lan, web)
	e := aliasEndpoint(10)
	h.must(h.stacks.attach(lan, e))
	task := *h.task(web, 10)
	h.tasks = append(h.tasks, Task{Key: "alias", Endpoint: e,
		Declared: []Port{{"tcp", 8080, 2}, {"tcp", 8081, 3}, {"udp", 53, 1}}})
	h.load()
	for _, a := range e.addrs() {
		for _, p := range []uint16{8080, 8083, 8084} {
			h.serve("", "tcp", at(a, p), "alias")
		}
		h.reach("a task", h.ns(task), "tcp", at(a, 8080), "alias")
		h.reach("a task", h.ns(task), "tcp", at(a, 8083), "alias")
		h.refused("a task", h.ns(task), "tcp", at(a, 8084))
		h.reach("the outside", h.out, "tcp", at(a, 8084), "alias")
	}
}
