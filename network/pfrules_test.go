package network

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

func pfAddrs(list ...string) []hostAddress {
	var all []hostAddress
	for _, l := range list {
		name, prefix, _ := strings.Cut(l, " ")
		all = append(all, hostAddress{Prefix: netip.MustParsePrefix(prefix), Interface: name})
	}
	return all
}

var pfTestHost = pfHost{States: 100000, Addresses: pfAddrs("lo0 127.0.0.1/8", "lo0 ::1/128", "em0 192.0.2.10/24", "em0 2001:db8::10/64",
	"em0 fe80::2/64", "em1 198.51.100.1/24", "em1 198.51.100.50/32", "fj-web 10.88.0.1/24")}

func pfNetwork(name string, mode Mode, subnet4, subnet6 string) Network {
	n := Network{Name: name, Mode: mode, HostAccess: []Port{{"udp", 53, 0}, {"tcp", 53, 1}}}
	if subnet4 != "" {
		n.Subnet4 = netip.MustParsePrefix(subnet4)
	}
	if subnet6 != "" {
		n.Subnet6 = netip.MustParsePrefix(subnet6)
	}
	if mode == NAT && subnet4 != "" {
		n.Gateway4 = n.Subnet4.Masked().Addr().Next()
	}
	if mode == NAT && subnet6 != "" {
		n.Gateway6 = n.Subnet6.Masked().Addr().Next()
	}
	return n
}

func pfTask(key string, n Network, addrs ...string) Task {
	t := Task{Key: key, Endpoint: Endpoint{Network: n.Name, Mode: n.Mode, As: n}}
	if n.Mode.OwnStack() {
		t.Stack, t.Link = "fjnet-"+key, "epair16384a"
	}
	for _, text := range addrs {
		if a := netip.MustParseAddr(text); a.Is4() {
			t.Addr4 = a
		} else {
			t.Addr6 = a
		}
	}
	return t
}

func pfPublished(at string, p Port, to uint16) Publication {
	out := Publication{Port: p, To: to}
	if at != "" {
		out.At = netip.MustParseAddr(at)
	}
	return out
}

// pfCases are hosts whose whole anchor is in testdata.
func pfCases() map[string]func() ([]Network, []Task, pfHost) {
	web := pfNetwork("web", NAT, "10.88.0.0/24", "fd00:88::/64")
	db := pfNetwork("db", NAT, "10.89.0.0/24", "")
	db.Isolate, db.Interface = true, "em1"
	lan := pfNetwork("lan", Bridged, "192.0.2.0/24", "2001:db8::/64")
	lan.Bridge = "bridge0"
	al := pfNetwork("pub", Alias, "198.51.100.0/24", "")
	al.Interface = "em1"
	one := pfTask("one", web, "10.88.0.7", "fd00:88::7")
	one.Published = []Publication{pfPublished("192.0.2.10", Port{"tcp", 8081, 1}, 8080),
		pfPublished("2001:db8::10", Port{"tcp", 8081, 0}, 8080), pfPublished("", Port{"udp", 5353, 0}, 53),
		pfPublished("", Port{"tcp", 8000, 11}, 9000), pfPublished("127.0.0.1", Port{"tcp", 9999, 0}, 99),
		pfPublished("::1", Port{"tcp", 9998, 0}, 98)}
	two := pfTask("two", web, "10.88.0.8")
	two.Published = []Publication{pfPublished("2001:db8::10", Port{"tcp", 8082, 0}, 80)} // it has no IPv6
	three := pfTask("three", db, "10.89.0.2")
	bridged := pfTask("bridged", lan, "192.0.2.77", "2001:db8::77")
	bridged.Link, bridged.MAC, bridged.Declared = "epair16385a", "02:11:22:33:44:55", []Port{{"tcp", 80, 0}}
	bridged.Published = []Publication{{At: netip.MustParseAddr("192.0.2.1"), Port: Port{"tcp", 20001, 0}, To: 80}}
	alias := pfTask("alias", al, "198.51.100.50")
	alias.Declared = []Port{{"tcp", 5432, 0}}
	sidecar := pfTask("sidecar", web, "10.88.0.7", "fd00:88::7")
	sidecar.Stack = one.Stack
	sidecar.Published = []Publication{pfPublished("192.0.2.10", Port{"tcp", 7000, 0}, 7000)}
	links := pfTestHost
	links.Links = true
	type result = func() ([]Network, []Task, pfHost)
	return map[string]result{
		"nothing": func() ([]Network, []Task, pfHost) { return []Network{{Name: "x", Mode: None}}, nil, pfTestHost },
		"empty":   func() ([]Network, []Task, pfHost) { return []Network{web}, nil, pfTestHost },
		"nat":     func() ([]Network, []Task, pfHost) { return []Network{web}, []Task{one, two}, pfTestHost },
		"group":   func() ([]Network, []Task, pfHost) { return []Network{web}, []Task{one, sidecar}, pfTestHost },
		"isolate": func() ([]Network, []Task, pfHost) { return []Network{db}, []Task{three}, pfTestHost },
		"bridged": func() ([]Network, []Task, pfHost) { return []Network{lan}, []Task{bridged}, pfTestHost },
		"alias":   func() ([]Network, []Task, pfHost) { return []Network{al, web}, []Task{alias}, pfTestHost },
		"all": func() ([]Network, []Task, pfHost) {
			return []Network{web, db, lan, al}, []Task{one, two, three, bridged, alias}, links
		},
	}
}

// whole is all that pf has, with the anchors of buckets.
func (l pfLayout) whole() string {
	text := l.text()
	for i, b := range l.buckets {
		if !b.empty() {
			text += "# " + bucketAnchor(i) + "\n" + b.text()
		}
	}
	return text
}

func pfWhole(networks []Network, tasks []Task, host pfHost) (string, error) {
	l, err := pfRules(networks, tasks, host)
	return l.whole(), err
}

func TestPFRules(t *testing.T) {
	for name, c := range pfCases() {
		networks, tasks, host := c()
		got, err := pfWhole(networks, tasks, host)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		slices.Reverse(networks)
		slices.Reverse(tasks)
		if again, err := pfWhole(networks, tasks, host); again != got || err != nil {
			t.Errorf("%s: in another order it is other text (%v):\n%s", name, err, again)
		}
		file := filepath.Join("testdata", "pf", name+".conf")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || string(want) != got {
			t.Errorf("%s: %v; go test -run TestPFRules ./network -update writes it anew; got\n%s", name, err, got)
		}
	}
}

// No name can end a rule, begin one, or be a macro of a label.
func TestHostileNamesAreNoRules(t *testing.T) {
	evil := []string{"x\npass all", "em0 }", `a" pass`, "$if", "a b", "a,b", "<t>", "", "-v", "em0#", "\x00",
		"ünterface", "$label"}
	web := pfNetwork("web", NAT, "10.88.0.0/24", "")
	for _, name := range evil {
		n := web
		n.Interface = name
		if text, err := pfWhole([]Network{n}, nil, pfHost{}); err == nil && name != "" {
			t.Errorf("an interface %q:\n%s", name, text)
		}
		task := pfTask("one", web, "10.88.0.7")
		task.Link = name
		if text, err := pfWhole([]Network{web}, []Task{task}, pfHost{Links: true}); err == nil && name != "" {
			t.Errorf("a link %q:\n%s", name, text)
		}
		task = pfTask(name, web, "10.88.0.7")
		task.Stack = ""
		text, err := pfWhole([]Network{web}, []Task{task}, pfHost{Addresses: []hostAddress{{Interface: name,
			Prefix: netip.MustParsePrefix("192.0.2.1/24")}}})
		if err != nil || name != "-v" && name != "" && strings.Contains(text, name) || strings.Contains(text, "pass all") {
			t.Errorf("a key and an interface of the host %q: %v\n%s", name, err, text)
		}
	}
	for _, p := range []Port{{"tcp udp", 1, 1}, {"", 1, 1}, {"tcp", 0, 1}, {"tcp", 65535, 2}, {"icmp", 1, 0}} {
		task := pfTask("one", web, "10.88.0.7")
		task.Published = []Publication{{Port: p, To: 80}}
		if text, err := pfWhole([]Network{web}, []Task{task}, pfHost{}); err == nil {
			t.Errorf("ports %+v:\n%s", p, text)
		}
	}
	zone := netip.MustParseAddr("fe80::1%em0 pass all")
	if got := pfAddress(zone).text; got != "fe80::1" {
		t.Errorf("an address with a zone is %q", got)
	}
}

// What reaches the host passes lo0 with net.pf.filter_local: rules for what leaves would change the answers of tasks.
func TestNothingLeavesByLoopback(t *testing.T) {
	host := pfHost{Addresses: append(pfAddrs("lo0 10.250.0.1/32"), pfTestHost.Addresses...)}
	text, err := pfWhole([]Network{pfNetwork("web", NAT, "10.88.0.0/24", "")}, nil, host)
	if err != nil || strings.Contains(text, "nat on lo0") || !strings.Contains(text, "nat on em0") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestPFGatewaysServicesAreTheHosts: the first translation that fits a packet is the one, and none is for them.
func TestPFGatewaysServicesAreTheHosts(t *testing.T) {
	web, other := pfNetwork("web", NAT, "10.88.0.0/24", "fd00:88::/64"), pfNetwork("other", NAT, "10.89.0.0/24", "")
	bad := pfTask("bad", other, "10.89.0.7")
	bad.Published = []Publication{{Port: Port{"udp", 53, 1}, To: 53}}
	text, err := pfWhole([]Network{web, other}, []Task{bad}, pfHost{})
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"inet proto udp from any to 10.88.0.1", "inet6 proto tcp from any to fd00:88::1"} {
		not := strings.Index(text, "no rdr "+of+" port 53\n")
		if leads := strings.Index(text, "rdr-anchor"); not < 0 || leads < not {
			t.Errorf("%s port 53 is led to a task:\n%s", of, text)
		}
	}
}
