package network

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
)

// An error names its network once, however many have had it.
func TestErrorsNameTheirNetworkOnce(t *testing.T) {
	n := nat()
	n.Where, n.Interface = "freejail.hcl:3", "no interface"
	_, rules := newPFNet(n, nil)
	for what, err := range map[string]error{"a fault": about(n.Name, fmt.Errorf("x: %w", n.fault("y"))),
		"rules of pf": about(n.Name, rules), "twice": about(n.Name, about(n.Name, errors.New("y")))} {
		if err == nil || strings.Count(err.Error(), "network ") != 1 || !strings.Contains(err.Error(), `"`+n.Name+`"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := about("other", n.fault("y")); strings.Count(err.Error(), "network ") != 2 {
		t.Errorf("of another one: %v", err)
	}
}

// What of the host is against a network is told with its block, and hinders no other.
func TestCheckHost(t *testing.T) {
	for _, c := range []struct {
		network Network
		host    string
		ours    bool
		want    string
	}{
		{nat(), "10.88.0.9/16", false, "subnet4 10.88.0.0/24 overlaps the host's address 10.88.0.9/16 of em0"},
		{nat(), "10.88.0.1/24", false, "subnet4 10.88.0.0/24 overlaps"},
		{nat(), "10.88.0.1/24", true, ""},
		{nat(), "10.89.0.1/24", false, ""},
		{nat(), "fd00:88::7/128", false, "subnet6 fd00:88::/64 overlaps the host's address fd00:88::7/128 of em0"},
		{nat(), "fe80::1/64", false, ""},
		{nat(), "127.0.0.1/8", false, ""},
		{alias(), "192.0.2.1/24", false, ""},
		{alias(), "192.0.2.10/24", false, "its pool 192.0.2.10 to 192.0.2.11 contains the host's address 192.0.2.10 of em0"},
		{alias(), "192.0.2.10/32", false, "contains the host's address 192.0.2.10 of em0"},
		{alias(), "192.0.2.10/32", true, ""}, // a task's
		{bridged(), "2001:db8::1/64", false, ""},
		{bridged(), "2001:db8::11/64", false, "its pool 2001:db8::10 to 2001:db8::12 contains"},
		{bridged(), "2001:db8::11/128", false, "contains the host's address 2001:db8::11"},
	} {
		f := newFake(t)
		f.hosts = []hostAddress{{prefix(c.host), "em0", c.ours}}
		other := nat()
		other.Name, other.Subnet4, other.Pool4 = "other", prefix("172.30.0.0/24"), span("172.30.0.2", "172.30.0.3")
		other.Gateway4, other.Subnet6, other.Pool6, other.Gateway6 =
			addr("172.30.0.1"), netip.Prefix{}, Range{}, netip.Addr{}
		m, _ := f.manager(c.network, other)
		_, err := m.Reserve("a", Request{Network: c.network.Name})
		for _, err := range []error{m.Check(), err} {
			if c.want == "" && err != nil {
				t.Errorf("%s on a host with %s: %v", c.network.Name, c.host, err)
			}
			if c.want != "" {
				wantError(t, err, c.network.Where+": network "+fmt.Sprintf("%q", c.network.Name), c.want)
			}
		}
		if e := reserve(t, m, "b", "other"); e.Addr4 != addr("172.30.0.2") || e.Addr6.IsValid() {
			t.Errorf("%+v", e)
		}
	}
}

func TestCheckMissing(t *testing.T) {
	f := newFake(t)
	f.missing["lan"] = errors.New("there is no bridge bridge0")
	m, _ := f.manager(nat(), bridged())
	wantError(t, m.Check(), `freejail.hcl:20: network "lan": there is no bridge bridge0`)
	_, err := m.Reserve("a", Request{Network: "lan"})
	wantError(t, err, "there is no bridge bridge0")
	s := m.List()
	if len(s) != 2 || s[0].Problem != "" || s[0].Size != 4 || !strings.Contains(s[1].Problem, "bridge0") {
		t.Errorf("%+v", s)
	}
	delete(f.missing, "lan") // it is there as soon as it is there
	reserve(t, m, "a", "lan")
}

// Two pools may be in one network of the operator's, and nothing in one of freejail's.
func TestBesides(t *testing.T) {
	second := alias()
	second.Name, second.Pool4 = "second", span("192.0.2.12", "192.0.2.20")
	lan := alias()
	lan.Name, lan.Mode, lan.Bridge, lan.Interface = "lan4", Bridged, "bridge0", ""
	lan.Pool4 = span("192.0.2.30", "192.0.2.39")
	if err := Validate([]Network{alias(), second, lan, bridged(), nat()}); err != nil {
		t.Error(err)
	}
	second.Pool4.First = addr("192.0.2.11")
	wantError(t, Validate([]Network{alias(), second}), `"second"`,
		"its pool 192.0.2.11 to 192.0.2.20 overlaps 192.0.2.10 to 192.0.2.11 of network \"pub\"")
	third := nat()
	third.Name, third.Subnet6, third.Pool6, third.Gateway6 = "third", netip.Prefix{}, Range{}, netip.Addr{}
	third.Subnet4, third.Pool4 = prefix("192.0.2.0/25"), span("192.0.2.100", "192.0.2.101")
	third.Gateway4 = addr("192.0.2.99")
	wantError(t, Validate([]Network{alias(), third}), `"third": subnet4 192.0.2.0/25 overlaps 192.0.2.0/24`)
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]struct {
		pool string
		size int
	}{
		"10.0.0.0/24":   {"10.0.0.2 to 10.0.0.254", 253},
		"10.0.0.0/30":   {"10.0.0.2 to 10.0.0.2", 1},
		"10.0.0.0/8":    {"10.0.0.2 to 10.255.255.254", 1<<24 - 3},
		"fd00::/126":    {"fd00::2 to fd00::3", 2},
		"fd00::/64":     {"fd00::2 to fd00::ffff:ffff:ffff:ffff", math.MaxInt},
		"192.0.2.7/32":  {"192.0.2.7 to 192.0.2.7", 1},
		"192.0.2.6/31":  {"192.0.2.6 to 192.0.2.7", 2},
		"2001:db8::/12": {"2000::2 to 200f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", math.MaxInt},
	} {
		n := Network{Name: "n", Mode: NAT}
		p := prefix(text).Masked()
		if p.Addr().Is4() {
			n.Subnet4 = p
		} else {
			n.Subnet6 = p
		}
		if p.Bits() < p.Addr().BitLen()-1 {
			n.Gateway4 = p.Addr().Next()
			n.Gateway6 = p.Addr().Next()
		}
		pool := n.PoolOf(p)
		if n.Pool4 = pool; p.Addr().Is6() {
			n.Pool4, n.Pool6 = Range{}, pool
		}
		if pool.String() != want.pool || n.Size() != want.size {
			t.Errorf("%s: %s, %d", text, pool, n.Size())
		}
	}
}

// A name of a bridge fits, and two networks never have one bridge.
func TestOwnBridge(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "web", "exactly12-ab", "production-web-one", "production-web-two"} {
		b := Network{Name: name}.OwnBridge()
		if len(b) > maxInterface || seen[b] != "" || !strings.HasPrefix(b, "fj-") {
			t.Errorf("%s has %s, as %q", name, b, seen[b])
		}
		seen[b] = name
	}
}
