package network

import "net/netip"

// metadata are where clouds answer their instances, with credentials of the host too, by HTTP: AWS, Azure, Google,
// Oracle and others; of AWS also the roles of containers; Tencent; Scaleway; Alibaba; by IPv6 AWS, Google, Oracle and
// Scaleway. Some of them are name servers too, by port 53.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("169.254.0.23"), netip.MustParseAddr("169.254.42.42"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23"), netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), netip.MustParseAddr("fd00:42::42"),
}

// wireServer is Azure's, with what an instance is to be and its certificates, by these ports of TCP. It is the name
// server too, and probes tasks that a load balancer leads to.
var (
	wireServer      = netip.MustParseAddr("168.63.129.16")
	wireServerPorts = []Port{{"tcp", 80, 1}, {"tcp", 32526, 1}}
)
