package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/network"
)

func loadText(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "freejail.hcl")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(file)
}

func TestNetworks(t *testing.T) {
	c, err := loadText(t, `
default_network = "web"
network "web" {
  mode    = "nat"
  subnet4 = "10.88.0.0/24"
  subnet6 = "fd00:88::/64"
}
network "lan" {
  mode    = "bridged"
  bridge  = "bridge0"
  subnet4 = "192.0.2.0/24"
  subnet6 = "2001:db8::/64"
  pool4   = "192.0.2.100-192.0.2.199"
  pool6   = "2001:db8::100/120"
  gateway = ["192.0.2.1", "fe80::1"]
  dns     = ["192.0.2.53"]
  isolate = true
  mtu     = 9000
}
network "pub" {
  mode      = "alias"
  interface = "em0"
  subnet4   = "198.51.100.7/32"
}
network "bare" {
  mode        = "nat"
  subnet4     = "10.89.0.0/30"
  gateway     = "10.89.0.2"
  interface   = "em1"
  host_access = ["5432/tcp"]
}
network "no-host" {
  mode        = "nat"
  subnet6     = "fd00:90::/126"
  host_access = []
}`)
	if err != nil {
		t.Fatal(err)
	}
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	span := func(first, last string) network.Range { return network.Range{First: a(first), Last: a(last)} }
	dns := []network.Port{{Protocol: "udp", First: 53, Count: 1}, {Protocol: "tcp", First: 53, Count: 1}}
	want := []network.Network{
		{Name: "web", Mode: network.NAT, Subnet4: p("10.88.0.0/24"), Subnet6: p("fd00:88::/64"),
			Pool4: span("10.88.0.2", "10.88.0.254"), Pool6: span("fd00:88::2", "fd00:88::ffff:ffff:ffff:ffff"),
			Gateway4: a("10.88.0.1"), Gateway6: a("fd00:88::1"), HostAccess: dns, Where: "freejail.hcl:3"},
		{Name: "lan", Mode: network.Bridged, Bridge: "bridge0", Subnet4: p("192.0.2.0/24"), Subnet6: p("2001:db8::/64"),
			Pool4: span("192.0.2.100", "192.0.2.199"), Pool6: span("2001:db8::100", "2001:db8::1ff"),
			Gateway4: a("192.0.2.1"), Gateway6: a("fe80::1"), DNS: []netip.Addr{a("192.0.2.53")}, Isolate: true, MTU: 9000,
			HostAccess: dns, Where: "freejail.hcl:8"},
		{Name: "pub", Mode: network.Alias, Interface: "em0", Subnet4: p("198.51.100.7/32"),
			Pool4: span("198.51.100.7", "198.51.100.7"), Where: "freejail.hcl:20"},
		{Name: "bare", Mode: network.NAT, Subnet4: p("10.89.0.0/30"), Pool4: span("10.89.0.1", "10.89.0.1"),
			Gateway4: a("10.89.0.2"), Interface: "em1", Where: "freejail.hcl:25",
			HostAccess: []network.Port{{Protocol: "tcp", First: 5432, Count: 1}}},
		{Name: "no-host", Mode: network.NAT, Subnet6: p("fd00:90::/126"), Pool6: span("fd00:90::2", "fd00:90::3"),
			Gateway6: a("fd00:90::1"), Where: "freejail.hcl:32"},
	}
	for i, n := range want {
		if i < len(c.Networks) && !reflect.DeepEqual(c.Networks[i], n) {
			t.Errorf("\n%+v, want\n%+v", c.Networks[i], n)
		}
	}
	if len(c.Networks) != len(want) || c.DefaultNetwork != "web" {
		t.Errorf("%d networks, default %q", len(c.Networks), c.DefaultNetwork)
	}
	if c, err := loadText(t, ""); err != nil || c.DefaultNetwork != "host" {
		t.Errorf("default %q: %v", c.DefaultNetwork, err)
	}
}

// Each mistake is told with its block and line, and only those that there are.
func TestWrongNetworks(t *testing.T) {
	nat := func(more string) string { return "\nnetwork \"web\" {\n  mode = \"nat\"\n" + more + "\n}\n" }
	const four, six = "subnet4 = \"10.88.0.0/24\"\n", "subnet6 = \"fd00:88::/64\"\n"
	second := func(text string) string { return nat(four+six) + "network \"two\" {\n" + text + "\n}\n" }
	for text, want := range map[string]string{
		nat("subnet4 = \"10.88.0.0\""):                            `subnet4 "10.88.0.0" is not a prefix`,
		nat("subnet4 = \"10.88.0.1/24\""):                         `10.88.0.1/24 has bits beyond its prefix (10.88.0.0/24 has none)`,
		nat("subnet4 = \"fd00::/64\""):                            `subnet4 fd00::/64 is not of this family`,
		nat("subnet6 = \"10.88.0.0/24\""):                         `subnet6 10.88.0.0/24 is not of this family`,
		nat("subnet4 = \"127.0.0.0/8\""):                          `127.0.0.0/8 is not of unicast addresses`,
		nat("subnet4 = \"0.0.0.0/0\""):                            `0.0.0.0/0 is not of unicast addresses`,
		nat("subnet4 = \"10.88.0.0/31\""):                         `10.88.0.0/31 is too small: a gateway and a task need at least a /30`,
		nat("subnet6 = \"fd00:88::/127\""):                        `too small: a gateway and a task need at least a /126`,
		nat(""):                                                   `subnet4 or subnet6 is missing`,
		nat(four + "pool6 = \"fd00:88::2-fd00:88::9\""):           `subnet6 is missing`,
		nat(four + "gateway = \"fd00:88::1\""):                    `subnet6 is missing`,
		nat(four + "pool4 = \"10.88.1.2-10.88.1.9\""):             `pool 10.88.1.2 to 10.88.1.9 is not within subnet4 10.88.0.0/24`,
		nat(four + "pool4 = \"10.88.0.9-10.88.0.2\""):             `the first address is after the last`,
		nat(four + "pool4 = \"10.88.0.2-fd00::9\""):               `is not within`,
		nat(four + "pool4 = \"10.88.0.9\""):                       `pool4 "10.88.0.9" is not FIRST-LAST or a prefix`,
		nat(four + "pool4 = \"10.88.0.1/32\""):                    `no address is left for a task`,
		nat(four + "gateway = \"10.88.1.1\""):                     `gateway 10.88.1.1 is not an address in subnet4`,
		nat(four + "gateway = \"10.88.0.255\""):                   `gateway 10.88.0.255 is not an address in subnet4`,
		nat(four + "gateway = \"x\""):                             `gateway "x" is not an address`,
		nat(four + "gateway = 5"):                                 `gateway "5" is not an address`,
		nat(four + "gateway = {}"):                                `gateway: `,
		nat(four + "gateway = [\"10.88.0.1\", \"10.88.0.2\"]"):    `gateway "10.88.0.2" is not of the other family than 10.88.0.1`,
		nat(four + "bridge = \"bridge0\""):                        `bridge is for mode bridged`,
		nat(four + "interface = \"em 0\""):                        `interface "em 0" is not a name of an interface`,
		nat(four + "dns = [\"x\"]"):                               `dns: server "x" is not a valid IP address`,
		nat(four + "host_access = [\"53\"]"):                      `host_access "53" is not PORT/tcp or PORT/udp`,
		nat(four + "host_access = [\"0/tcp\"]"):                   `host_access "0/tcp" is not`,
		nat(four + "mtu = 0"):                                     `mtu "0" is not a number of bytes`,
		"\nnetwork \"web\" {\n" + four + "}":                      `mode is missing: nat, bridged or alias`,
		nat(four + "mtu = 500"):                                   `mtu 500 is not within 576 to 65535`,
		nat(six + "mtu = 1279"):                                   `mtu 1279 is less than the 1280`,
		nat(four + "sunbet4 = 5"):                                 `argument named "sunbet4" is not expected`,
		"\nnetwork \"web\" {}":                                    `mode is missing: nat, bridged or alias`,
		"\nnetwork \"web\" { mode = \"host\" }":                   `mode "host" is not one of nat, bridged and alias`,
		"\nnetwork \"Web\" { mode = \"nat\" }":                    `network "Web": a name is`,
		"\nnetwork \"none\" { mode = \"nat\" }":                   `network "none": a name is`,
		"\nnetwork \"web\" {\n mode = \"alias\"\n" + four + "}":   `interface is missing: mode alias needs`,
		"\nnetwork \"web\" {\n mode = \"bridged\"\n" + four + "}": `bridge is missing: mode bridged needs`,
		"\nnetwork \"web\" {\n mode = \"alias\"\n mtu = 1500\n interface = \"e\"\n" + four + "}":                 `: mtu: only for networks`,
		second("mode = \"nat\"\nsubnet4 = \"10.88.0.0/16\""):                                                     `:8: network "two": its pool 10.88.0.2 to 10.88.255.254 overlaps`,
		second("mode = \"nat\"\nsubnet6 = \"fd00:88:0:0:1::/80\""):                                               `:8: network "two": its pool`,
		second("mode = \"nat\"\nsubnet4 = \"10.88.0.0/16\"\npool4 = \"10.88.9.0/24\""):                           `:8: network "two": subnet4 10.88.0.0/16 overlaps 10.88.0.0/24 of network "web"`,
		nat(four) + nat("subnet4 = \"10.89.0.0/24\""):                                                            `:8: network "web": there are two networks of this name, the other at freejail.hcl:2`,
		"\nnetwork \"web\" {\n mode = \"alias\"\n host_access = [\"53/udp\"]\n interface = \"e\"\n" + four + "}": `host_access is for networks with a stack`,
		`default_network = "web"`: `freejail.hcl:1: default_network "web" is not a network of this file (there are: host, none)`,
	} {
		_, err := loadText(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
			continue
		}
		if strings.Contains(text, "network \"") && !strings.Contains(err.Error(), "freejail.hcl:") {
			t.Errorf("%s: %v names no line", text, err)
		}
		if n := strings.Count(err.Error(), "\n"); n > 1 {
			t.Errorf("%s: %d errors: %v", text, n+1, err)
		}
	}
}

// doctor names the tasks that keep what a network was, and the command for what a host lacks.
func TestNetworksOfDoctor(t *testing.T) {
	var c Checks
	n := network.Network{Name: "web", Mode: network.NAT}
	c.networks(Config{Path: "/f.hcl"}, []NetworkState{
		{Status: network.Status{Network: n}},
		{Status: network.Status{Network: n, Problem: "changed", Kept: true}, Tasks: []string{"a", "b"}},
		{Status: network.Status{Network: n, Problem: "overlaps"}},
		{Status: network.Status{Network: n, Unheld: []string{"ports of a: nginx"}}},
	})
	for i, want := range []string{"ok ", "warning changed: a b freejail stop a b",
		"error overlaps block of network web in /f.hcl", "ok ", "error ports of a: nginx as soon as it is free"} {
		status, rest, _ := strings.Cut(want, " ")
		if c[i].Status != status {
			t.Errorf("%+v, want %s", c[i], want)
		}
		for _, w := range strings.Fields(rest) {
			if !strings.Contains(c[i].Detail+" "+c[i].Fix, w) {
				t.Errorf("%+v, want %s", c[i], want)
			}
		}
	}
}

// A network of the operator's without a pool is warned of, and several faults are lines, without escapes.
func TestWordsOfNetworks(t *testing.T) {
	subnet := netip.MustParsePrefix("192.0.2.0/24")
	n := network.Network{Name: "pub", Mode: network.Alias, Interface: "em0", Subnet4: subnet}
	n.Pool4 = n.PoolOf(subnet)
	var c Checks
	c.network(Config{}, NetworkState{Status: network.Status{Network: n}})
	if len(c) != 2 || c[1].Status != "warning" || !strings.Contains(c[1].Detail, "no pool4: tasks get any address of 192.0.2.0/24") {
		t.Errorf("%+v", c)
	}
	n.Pool4 = network.RangeOf(netip.MustParsePrefix("192.0.2.64/27"))
	if wide := Unbounded(n); wide != "" {
		t.Error(wide)
	}
	c.Bad("network pub", "one\ntwo", "")
	if c[2].Detail != "one; two" {
		t.Errorf("%+v", c[2])
	}
	err := &FaultError{fmt.Errorf("file: %w", errors.Join(errors.New("one"), errors.New("two")))}
	if text := printable.Error(err); strings.Contains(text, `\n`) || text != err.Error() {
		t.Error(text)
	}
}
