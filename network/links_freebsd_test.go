package network

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func (f stackFixture) sh(cmd string) string {
	f.Helper()
	out, err := exec.Command("sh", "-c", cmd).CombinedOutput()
	if err != nil {
		f.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// rejoins wants endpoints to be cut off, and be connected by rejoin.
func (f stackFixture) rejoins(n Network, list ...Endpoint) {
	f.Helper()
	cut, err := f.cut(n, list)
	if err != nil || len(cut) != len(list) {
		f.Errorf("cut off: %d of %d: %v", len(cut), len(list), err)
	}
	for _, e := range cut {
		f.check(f.rejoin(n, e))
	}
	f.whole(n, list...)
}

func (f stackFixture) whole(n Network, list ...Endpoint) {
	f.Helper()
	if cut, err := f.cut(n, list); err != nil || len(cut) > 0 {
		f.Errorf("cut off: %+v: %v", cut, err)
	}
}

// Tasks are on the operator's bridge again when it was destroyed and made anew, or when their links were taken off it.
func TestBridgeMadeAnew(t *testing.T) {
	f := setupStacks(t)
	const bridge = "bridge9000"
	n := Network{Name: "bridged", Mode: Bridged, Bridge: bridge, Subnet4: netip.MustParsePrefix("10.98.0.0/24"),
		Gateway4: netip.MustParseAddr("10.98.0.1")}
	again := func() { f.sh("ifconfig " + bridge + " create inet 10.98.0.1/24 up") }
	again()
	t.Cleanup(func() { f.sh("ifconfig " + bridge + " destroy") })
	e := f.endpoint(40)
	e.Network, e.Mode, e.Addr4, e.Addr6 = n.Name, Bridged, netip.MustParseAddr("10.98.0.40"), netip.Addr{}
	t.Cleanup(func() { f.check(f.detach(e)) })
	f.check(f.attach(n, e))
	f.whole(n, e)
	task := f.child(e)
	if got := f.task(task, "serve", ":8080"); got != "ready" {
		t.Fatal(got)
	}
	f.sh("ifconfig " + bridge + " destroy")
	if cut, err := f.cut(n, []Endpoint{e}); err == nil || len(cut) != 1 || !strings.Contains(err.Error(), bridge) {
		t.Errorf("without its bridge: %+v: %v", cut, err)
	}
	again()
	f.rejoins(n, e)
	if got := echoes("10.98.0.40:8080"); got != "hello <nil>" {
		t.Error(got)
	}
	for _, cmd := range []string{"ifconfig " + bridge + " deletem " + e.Link, "ifconfig " + e.Link + " down",
		"ifconfig " + e.Link + " destroy"} {
		f.sh(cmd)
		f.rejoins(n, e)
		if got := echoes("10.98.0.40:8080"); got != "hello <nil>" {
			t.Errorf("after %s: %s", cmd, got)
		}
	}
}

// forward has the host forward for the time of a test.
func forward(f stackFixture) {
	was := f.sh("sysctl -n net.inet.ip.forwarding net.inet6.ip6.forwarding")
	f.sh("sysctl net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1")
	f.Cleanup(func() {
		values := strings.Fields(was)
		f.sh("sysctl net.inet.ip.forwarding=" + values[0] + " net.inet6.ip6.forwarding=" + values[1])
	})
}

// freejail's bridge and its addresses are put back.
func TestGatewayIsPutBack(t *testing.T) {
	f := setupStacks(t)
	forward(f)
	a, b := f.attached(41), f.attached(42)
	f.whole(f.nat, a, b)
	if got := f.task(f.child(a), "serve", ":8080"); got != "ready" {
		t.Fatal(got)
	}
	name := f.nat.OwnBridge()
	links := "ifconfig " + a.Link + " down && ifconfig " + b.Link + " down"
	for _, cmd := range []string{"ifconfig " + name + " destroy", links, "ifconfig " + name + " down && " + links,
		"ifconfig " + name + " inet 10.99.0.1 delete",
		"ifconfig " + name + " inet6 fd99::1 delete", "ifconfig " + name + " inet6 fe80::1%" + name + " delete"} {
		f.sh(cmd)
		f.rejoins(f.nat, a, b)
		for _, to := range []string{"10.99.0.41:8080", "[" + a.Addr6.String() + "]:8080"} {
			if got := echoes(to); got != "hello <nil>" {
				t.Errorf("after %s: %s: %s", cmd, to, got)
			}
		}
	}
	f.sh("sysctl net.inet.ip.forwarding=0")
	if cut, err := f.cut(f.nat, []Endpoint{a, b}); err == nil || len(cut) != 2 {
		t.Errorf("without forwarding: %+v: %v", cut, err)
	}
}

// An address of a task of alias is on its interface again.
func TestAliasIsPutBack(t *testing.T) {
	f := setupStacks(t)
	n := Network{Name: "alias", Mode: Alias, Interface: "lo9000", Subnet4: netip.MustParsePrefix("10.97.0.0/24"),
		Subnet6: netip.MustParsePrefix("fd97::/64")}
	f.sh("ifconfig lo9000 create up")
	t.Cleanup(func() { f.sh("ifconfig lo9000 destroy") })
	e := Endpoint{Network: n.Name, Mode: Alias, Addr4: netip.MustParseAddr("10.97.0.2"),
		Addr6: netip.MustParseAddr("fd97::2")}
	f.networks = append(f.networks, n)
	f.check(f.attach(n, e))
	f.whole(n, e)
	for _, cmd := range []string{"ifconfig lo9000 delete", "ifconfig lo9000 inet6 fd97::2 delete",
		"ifconfig lo9000 destroy && ifconfig lo9000 create up"} {
		f.sh(cmd)
		f.rejoins(n, e)
	}
	f.sh("ifconfig lo9000 name lo9001")
	if cut, err := f.cut(n, []Endpoint{e}); err == nil || len(cut) != 1 {
		t.Errorf("without its interface: %+v: %v", cut, err)
	}
	f.sh("ifconfig lo9001 name lo9000")
	f.check(f.detach(e))
}

// permanent are the addresses whose MAC the host knows for ever.
func (f stackFixture) permanent(e Endpoint) (list []string) {
	f.Helper()
	all, err := neighbors()
	f.check(err)
	for _, n := range all {
		if n.mac == e.MAC {
			list = append(list, n.addr.String())
		}
	}
	return list
}

// The host knows the MAC of each task, however it is told, until the task has ended.
func TestMACsAreKnown(t *testing.T) {
	f := setupStacks(t)
	forward(f)
	a, b, c := f.attached(43), f.attached(44), f.attached(45)
	want := []string{a.Addr4.String(), a.Addr6.String(), "fe80::ff:fe00:2b"}
	if got := f.permanent(a); !slices.Equal(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
	name := f.nat.OwnBridge()
	for _, address := range []string{a.Addr6.String(), "fe80::ff:fe00:2b%" + name} {
		if got := f.sh("ndp -n " + address); !strings.Contains(got, a.MAC) || !strings.Contains(got, "permanent") {
			t.Error(got)
		}
	}
	for _, cmd := range []string{"arp -nd " + a.Addr4.String(), "ndp -nd " + a.Addr6.String()} {
		f.sh(cmd)
		f.whole(f.nat, a, b)
		list, err := f.forgotten(f.nat, []Endpoint{a, b})
		if err != nil || len(list) != 1 || !list[0].same(a) {
			t.Fatalf("after %s: %+v: %v", cmd, list, err)
		}
		f.check(f.rejoin(f.nat, a))
		if got := f.permanent(a); len(got) != len(want) {
			t.Errorf("known again: %s", got)
		}
	}
	f.check(f.detach(a))
	f.check(f.detach(Endpoint{Stack: b.Stack, Link: b.Link})) // as it is found without its record
	f.sh("ifconfig " + c.Link + " destroy")
	f.check(f.detach(c))
	for _, e := range []Endpoint{a, b, c} {
		if got := f.permanent(e); len(got) > 0 {
			t.Errorf("left: %s", got)
		}
	}
}
