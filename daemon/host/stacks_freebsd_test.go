package host

import (
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/network"
)

// usualHost is FreeBSD 15 as it is installed, with pf.
var usualHost = map[string]uint64{"net.inet.ip.forwarding": 1, "net.inet6.ip6.forwarding": 1,
	"net.inet6.ip6.redirect": 1, "net.pf.filter_local": 0, "net.link.bridge.pfil_member": 0, "net.link.bridge.pfil_local_phys": 0,
	"net.pf.states_hashsize": 131072, "net.pf.source_nodes_hashsize": 32768, "net.pf.udpendpoint_hashsize": 32768,
	"net.inet.tcp.tcbhashsize": 131072}

func TestStacksOfAHost(t *testing.T) {
	subnet4, subnet6 := netip.MustParsePrefix("10.88.0.0/24"), netip.MustParsePrefix("fd00::/64")
	four := network.Network{Name: "a", Mode: network.NAT, Subnet4: subnet4}
	both := network.Network{Name: "b", Mode: network.NAT, Subnet4: subnet4, Subnet6: subnet6}
	bridged := network.Network{Name: "c", Mode: network.Bridged, Bridge: "bridge0", Subnet4: subnet4}
	for _, c := range []struct {
		name     string
		networks []network.Network
		set      map[string]uint64
		check    string
		status   string
		says     string
	}{
		{"forwarding", []network.Network{both}, nil, "forwarding", "warning", "ip6.redirect=0"},
		{"no IPv6", []network.Network{four}, map[string]uint64{"net.inet6.ip6.forwarding": 0}, "forwarding", "ok", "on"},
		{"no forwarding", []network.Network{both}, map[string]uint64{"net.inet.ip.forwarding": 0}, "forwarding", "error",
			"sysrc gateway_enable=YES && sysctl net.inet.ip.forwarding=1"},
		{"no forwarding of IPv6", []network.Network{both}, map[string]uint64{"net.inet6.ip6.forwarding": 0}, "forwarding",
			"error", "ipv6_gateway_enable=YES"},
		{"fast", []network.Network{both}, map[string]uint64{"net.inet6.ip6.redirect": 0}, "forwarding", "ok", "on"},
		{"filter_local", []network.Network{four}, map[string]uint64{"net.pf.filter_local": 1}, "pf on lo0", "ok",
			"rules for lo0"},
		{"lro", []network.Network{four}, nil, "lro", "warning", "ifconfig em0 -lro"},
		{"raw sockets", []network.Network{four}, nil, "pf on bridges", "ok", "raw sockets"},
		{"declared ports", []network.Network{bridged}, nil, "pf on bridges", "warning", "pfil_member=1"},
		{"enforced", []network.Network{bridged}, map[string]uint64{"net.link.bridge.pfil_member": 1,
			"net.link.bridge.pfil_local_phys": 1}, "pf on bridges", "ok", "own addresses"},
		{"large tables", []network.Network{four}, nil, "stack size", "warning", "15.5MiB"},
		{"their fix", []network.Network{bridged}, nil, "stack size", "warning",
			"net.pf.states_hashsize=8192 net.pf.source_nodes_hashsize=2048 net.pf.udpendpoint_hashsize=2048 " +
				"net.inet.tcp.tcbhashsize=8192 && shutdown -r now"},
		{"small tables", []network.Network{four}, map[string]uint64{"net.pf.states_hashsize": 8192,
			"net.pf.source_nodes_hashsize": 2048, "net.pf.udpendpoint_hashsize": 2048, "net.inet.tcp.tcbhashsize": 8192},
			"stack size", "ok", "1.031MiB"},
		{"devd", []network.Network{four}, nil, "devd", "warning", "dhclient"},
		{"none", []network.Network{{Name: "d", Mode: network.Alias}}, nil, "devd", "", ""},
	} {
		values := maps.Clone(usualHost)
		maps.Copy(values, c.set)
		h := stackHost{number: func(name string) (uint64, bool) { n, ok := values[name]; return n, ok },
			lro:    func() ([]string, error) { return []string{"em0"}, nil },
			rcConf: func(string) string { return "SYNCDHCP" }, exists: func(string) bool { return false }}
		var got Checks
		got.stacks(Config{Networks: c.networks}, h)
		status, text := "", ""
		for _, g := range got {
			if g.Name == c.check {
				status, text = g.Status, g.Detail+" "+g.Fix
			}
			if g.Status != "ok" && g.Fix == "" {
				t.Errorf("%s: no command: %+v", c.name, g)
			}
		}
		if status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s %q, want %s with %q", c.name, status, text, c.status, c.says)
		}
	}
}

// The real host is asked without an error.
func TestStacksOfThisHost(t *testing.T) {
	if _, err := mergingInterfaces(); err != nil {
		t.Error(err)
	}
	if n, ok := sysctlNumber("net.inet.tcp.tcbhashsize"); !ok || n == 0 {
		t.Errorf("rows of TCP: %d %v", n, ok)
	}
	h := thisStackHost()
	h.lro = func() ([]string, error) { return nil, errors.New("no socket") }
	var got Checks
	got.stacks(Config{Networks: []network.Network{{Mode: network.NAT}}}, h)
	for _, g := range got {
		if g.Name == "lro" && (g.Status != "warning" || g.Detail != "no socket") {
			t.Errorf("%+v", g)
		}
	}
}
