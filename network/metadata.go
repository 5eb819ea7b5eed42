package network

import "net/netip"

// metadata are where clouds answer their instances, with credentials of the host too, by HTTP: AWS, Azure, Google,
// Oracle and others; of AWS also the roles of containers; Alibaba; AWS and Google by IPv6. Some of them are name
// servers too, by port 53.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23"), netip.MustParseAddr("fd20:ce::254"),
}
