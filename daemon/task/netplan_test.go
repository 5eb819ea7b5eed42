package task

import (
	"net/netip"

	"github.com/freejail/freejail/network"
)

// fakeConfig are networks of each mode.
var fakeConfig = []network.Network{
	{Name: "lan", Mode: network.NAT, Subnet4: netip.MustParsePrefix("10.88.0.0/24"),
		Pool4:    network.Range{First: netip.MustParseAddr("10.88.0.2"), Last: netip.MustParseAddr("10.88.0.99")},
		Gateway4: netip.MustParseAddr("10.88.0.1"), HostAccess: []network.Port{{Protocol: "udp", First: 53}}},
	{Name: "office", Mode: network.Bridged, Subnet4: netip.MustParsePrefix("192.0.2.0/24"),
		Pool4: network.Range{First: netip.MustParseAddr("192.0.2.2"), Last: netip.MustParseAddr("192.0.2.99")}},
	{Name: "wire", Mode: network.Alias, Subnet4: netip.MustParsePrefix("198.51.100.0/24"),
		Pool4: network.Range{First: netip.MustParseAddr("198.51.100.2"), Last: netip.MustParseAddr("198.51.100.99")}},
}
