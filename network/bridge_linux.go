package network

import (
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// bridges is the table for tasks on bridges of the operator's: a frame that comes by a task's link has
// its MAC and one of its addresses, in the headers and in what it says to be by ARP and neighbour
// discovery. No VLAN is chosen there, no router is announced, and no metadata service of a cloud is asked.
func (r *table) bridges(name string, networks []Network, tasks []Task) {
	r.newTable(name, nftables.TableFamilyBridge)
	c := r.hook("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)
	r.add(c, r.fromOthers(), accept)
	four, six := r.set("source4", frameKey(nftables.TypeIPAddr)...), r.set("source6", frameKey(nftables.TypeIP6Addr)...)
	in4, in6 := map[string][]byte{}, map[string][]byte{}
	for _, t := range tasks {
		mac, err := net.ParseMAC(t.MAC)
		if err != nil {
			continue // such a task has no link
		}
		from := slices.Concat(interfaceName(t.Link), mac, []byte{0, 0})
		if t.Addr4.IsValid() {
			in4[string(slices.Concat(from, t.Addr4.AsSlice()))] = nil
		}
		if t.Addr6.IsValid() {
			in6[string(slices.Concat(from, t.Addr6.AsSlice()))] = nil
			in6[string(slices.Concat(from, linkLocal(mac).AsSlice()))] = nil
		}
	}
	r.fill(four, pairs(in4))
	r.fill(six, pairs(in6))
	const arp, ip4, ip6 = 0x0806, 0x0800, 0x86dd
	for i, f := range ipFamilies {
		of := etherType([]uint16{ip4, ip6}[i])
		for _, n := range f.of(networks) {
			if n.Metadata {
				continue
			}
			for _, to := range r.toMetadata(f) {
				r.add(c, of, f.masked(f.src, f.subnet(n)), to, drop)
			}
		}
	}
	r.add(c, etherType(arp), sender(network(14, 4)), in(four), accept) // RFC 826: ar$spa
	r.add(c, etherType(ip4), sender(network(12, 4)), in(four), accept)
	// An advertisement has its target at 8 (RFC 4861); 134 and 137 are of routers.
	r.add(c, etherType(ip6), icmp6(136), sender(transport(14, 8, 16)), not(six), drop)
	r.add(c, etherType(ip6), icmp6(134), drop)
	r.add(c, etherType(ip6), icmp6(137), drop)
	r.add(c, etherType(ip6), sender(network(8, 16)), in(six), accept)
	r.add(c, drop)
}

func frameKey(address nftables.SetDatatype) []nftables.SetDatatype {
	return []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, address}
}

// sender loads the key of a frame's sender: its link, its MAC and the address that is said to be its.
func sender(address *expr.Payload) part {
	mac := &expr.Payload{DestRegister: 12, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
	return part{meta(expr.MetaKeyIIFNAME, 8), mac, address}
}

func network(offset, size uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 14, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

// etherType is read from the frame: that of one with a VLAN is another.
func etherType(t uint16) part {
	return part{&expr.Payload{DestRegister: 8, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2},
		equal(8, portBytes(t)[:2])}
}

func not(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: 8, SetName: s.Name, SetID: s.ID, Invert: true}
}
