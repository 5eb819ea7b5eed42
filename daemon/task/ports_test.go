package task

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/network"
)

func TestBindingsThatMeet(t *testing.T) {
	for _, c := range []struct {
		a, b string
		meet bool
	}{
		{"127.0.0.1", "127.0.0.1", true}, {"127.0.0.1", "127.0.0.2", false}, {"127.0.0.1", "0.0.0.0", true},
		{"127.0.0.1", "::", true}, {"127.0.0.1", "", true},
		{"127.0.0.1", "::1", false}, {"0.0.0.0", "::1", false}, {"0.0.0.0", "::", true}, {"::", "::1", true},
		{"::1", "::1", true}, {"::1", "::2", false},
		{"::ffff:127.0.0.1", "127.0.0.1", true}, {"", "::1", true}, {"fe80::1%lo0", "fe80::1%lo1", false},
		{"0:0:0:0:0:0:0:1", "::1", true}, {"localhost", "::1", true},
	} {
		one, two := bindingOf(client.Port{Address: c.a, Port: 80, Protocol: "tcp"}),
			bindingOf(client.Port{Address: c.b, Port: 80, Protocol: "tcp"})
		if one.meets(two) != c.meet || two.meets(one) != c.meet {
			t.Errorf("%q and %q: want %v", c.a, c.b, c.meet)
		}
		two.protocol = "udp"
		if one.meets(two) {
			t.Errorf("%q and %q: tcp met udp", c.a, c.b)
		}
		two.protocol, two.port = "tcp", 81
		if one.meets(two) {
			t.Errorf("%q and %q: 80 met 81", c.a, c.b)
		}
	}
}

// place is a port of a test's task: ADDRESS, FIRST and COUNT of the host's, or where it is inside.
func place(protocol, address string, port, to, count int) client.Port {
	return client.Port{Name: "p", Protocol: protocol, Address: address, Port: port, To: to, Count: count}
}

// A task with addresses of the host's has these to itself, and its ports there: who comes later is refused and told
// whose it is, in either order.
func TestAddressesOfTheHostAreOneTasks(t *testing.T) {
	of := func(key string, mode network.Mode, p client.Port) *task {
		i := client.Task{Key: key, Spec: client.TaskSpec{ID: key}, Ports: []client.Port{p}}
		if mode != network.Host {
			i.Network = &client.NetworkInfo{Name: string(mode), Mode: string(mode)}
		}
		if mode == network.Alias {
			i.Network.Addr4, i.Network.Addr6 = netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
		}
		return &task{info: i}
	}
	alias := func() *task { return of("alias", network.Alias, place("tcp", "", 0, 8080, 3)) }
	const never, always = 0, 1
	onLinux := always
	if jailsListenApart {
		onLinux = never
	}
	for i, c := range []struct {
		mode network.Mode
		port client.Port
		meet int
	}{
		{network.NAT, place("tcp", "", 8080, 80, 0), onLinux},
		{network.NAT, place("tcp", "", 8082, 80, 0), onLinux},
		{network.NAT, place("tcp", "", 8000, 80, 81), onLinux},
		{network.NAT, place("tcp", "0.0.0.0", 8081, 80, 0), onLinux},
		{network.NAT, place("tcp", "::", 8081, 80, 0), onLinux},
		{network.NAT, place("tcp", "", 8083, 80, 0), never},
		{network.NAT, place("udp", "", 8080, 80, 0), never},
		{network.NAT, place("tcp", "192.0.2.9", 8080, 80, 0), never},
		{network.NAT, place("tcp", "192.0.2.10", 8080, 80, 0), always},
		{network.NAT, place("udp", "192.0.2.10", 9090, 80, 0), always},
		{network.NAT, place("tcp", "2001:db8::10", 9090, 80, 0), always},
		{network.Host, place("tcp", "", 8080, 0, 0), onLinux},
		{network.Host, place("tcp", "2001:db8::10", 9090, 0, 0), always},
		{network.Host, place("tcp", "", 9090, 0, 0), never},
	} {
		for _, aliasFirst := range []bool{true, false} {
			m, other := &Manager{}, of("other", c.mode, c.port)
			claim := func(tk *task) error {
				if tk.key() == "alias" {
					return m.claimAddresses(tk)
				}
				for _, one := range tk.claims(c.port) {
					if o, taken := m.claim(one); taken && !o.shares(one) {
						return m.elsewhere(tk, &tk.info.Ports[0], one, o)
					}
				}
				return nil
			}
			first, later := alias(), other
			if !aliasFirst {
				first, later = other, alias()
			}
			if err := claim(first); err != nil {
				t.Fatal(err)
			}
			err := claim(later)
			met := err != nil
			if met != (c.meet == always) || met && !strings.Contains(err.Error(), "by task "+first.key()) {
				t.Errorf("%d: alias first: %v: %v", i, aliasFirst, err)
			}
			m.releasePorts(alias())
			m.releaseAddresses(alias())
			m.releasePorts(other)
			if len(m.ports) > 0 {
				t.Errorf("%d: claims of nobody: %v", i, m.ports)
			}
		}
	}
	m := &Manager{}
	m.adoptPorts(alias())
	m.releasePorts(alias()) // it has its address until that is taken away
	other := of("other", network.NAT, place("tcp", "192.0.2.10", 8080, 80, 0))
	if err := m.claimPorts(other); err == nil || !strings.Contains(err.Error(),
		"taken on this host by task alias, with the address 192.0.2.10") {
		t.Errorf("of an earlier daemon: %v", err)
	}
}
