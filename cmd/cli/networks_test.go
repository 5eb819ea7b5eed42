package cli

import (
	"net/netip"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestPortInLists(t *testing.T) {
	for want, p := range map[string]client.Port{
		"web=:8080/tcp":                     {Name: "web", Port: 8080, Protocol: "tcp"},
		"web=10.0.0.5:8080/tcp":             {Name: "web", Address: "10.0.0.5", Port: 8080, Protocol: "tcp"},
		"web=10.0.0.5:8081->8080/tcp":       {Name: "web", Address: "10.0.0.5", Port: 8081, To: 8080, Protocol: "tcp"},
		"web=[::1]:80->8080/tcp":            {Name: "web", Address: "::1", Port: 80, To: 8080, Protocol: "tcp"},
		"web=8080/tcp":                      {Name: "web", To: 8080, Protocol: "tcp"},
		":5353->53/udp":                     {Name: "53-udp", Port: 5353, To: 53, Protocol: "udp"},
		"10.0.0.5:8000-8010->9000-9010/tcp": {Name: "9000-9010", Address: "10.0.0.5", Port: 8000, To: 9000, Count: 11, Protocol: "tcp"},
		"dns=10.0.0.5:53/udp":               {Name: "dns", Address: "10.0.0.5", Port: 53, To: 53, Protocol: "udp"},
	} {
		if got := psPort(p); got != want {
			t.Errorf("%+v: %s, want %s", p, got, want)
		}
	}
}

func TestNetworkInLists(t *testing.T) {
	four, six := netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00:88::2")
	for want, n := range map[string]*client.NetworkInfo{
		"host": nil, "none": {Name: "none", Mode: "none"}, "web 10.88.0.2": {Name: "web", Addr4: four},
		"web 10.88.0.2 fd00:88::2": {Name: "web", Addr4: four, Addr6: six},
	} {
		if got := psNetwork(client.Task{Network: n}); got != want {
			t.Errorf("%+v: %s, want %s", n, got, want)
		}
	}
	row := networkRow(client.NetworkStatus{Name: "web", Mode: "nat", Subnets: []string{"10.88.0.0/24", "fd00:88::/64"},
		Used: 3, Size: 253, Default: true, Tasks: []string{"a", "b"}})
	for i, want := range []string{"web (default)", "nat", "10.88.0.0/24,fd00:88::/64", "3 of 253", "2"} {
		if row[i] != want {
			t.Errorf("%q, want %q", row[i], want)
		}
	}
}
