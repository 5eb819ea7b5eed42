package network

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// The structs that FreeBSD's kernel takes, as amd64 and arm64 have them. They are encoded by
// hand, and on every system, so that their tests run everywhere.

// Sizes and offsets of net/if.h, netinet/in_var.h, netinet6/in6_var.h, netinet6/nd6.h and net/if_bridgevar.h.
const (
	sizeIfreq      = 32
	sizeAliasReq   = 68  // struct ifaliasreq
	sizeAliasReq6  = 136 // struct in6_aliasreq
	sizeIfreq6     = 288 // struct in6_ifreq
	sizeNDReq      = 72  // struct in6_ndireq
	sizeBridgeReq  = 80  // struct ifbreq
	sizeBridgeAReq = 40  // struct ifbareq
	sizeDrvReq     = 40  // struct ifdrv
	sizeGroupReq   = 40  // struct ifgroupreq
	sizeIfData     = 152 // struct if_data

	nameSize = maxInterface + 1

	aliasMaskAt     = nameSize + 2*sizeSockaddr4
	aliasMarkAt     = aliasMaskAt + 8 // sin_zero of ifra_mask
	aliasLifetimeAt = 104             // ifra_lifetime
	validLifetimeAt = 16              // ia6t_vltime in struct in6_addrlifetime

	ifDataPackets = 24 // ifi_ipackets
	ifDataOut     = 40 // ifi_opackets
	ifDataBytes   = 64 // ifi_ibytes
	ifDataBytesO  = 72 // ifi_obytes

	sizeSockaddr4 = 16
	sizeSockaddr6 = 28

	inet, inet6, link = 2, 28, 18 // AF_INET, AF_INET6, AF_LINK of FreeBSD's sys/socket.h
)

// named begins a struct of which the first field is the name of an interface.
func named(size int, name string) []byte {
	b := make([]byte, size)
	copy(b[:maxInterface], name)
	return b
}

// numberReq is a struct ifreq with an int: flags, an MTU, a jail.
func numberReq(name string, n int) []byte {
	b := named(sizeIfreq, name)
	binary.NativeEndian.PutUint32(b[nameSize:], uint32(n))
	return b
}

// linkReq is a struct ifreq with a MAC, whose length is that of its sockaddr (see if_setlladdr in net/if.c).
func linkReq(name string, mac net.HardwareAddr) []byte {
	b := named(sizeIfreq, name)
	b[nameSize], b[nameSize+1] = byte(len(mac)), link
	copy(b[nameSize+2:], mac)
	return b
}

// putAddr writes a sockaddr of the address's family.
func putAddr(b []byte, a netip.Addr) {
	if a.Is4() {
		b[0], b[1] = sizeSockaddr4, inet
		copy(b[4:], a.AsSlice())
		return
	}
	b[0], b[1] = sizeSockaddr6, inet6
	copy(b[8:], a.AsSlice())
}

// maskOf is a prefix's mask as an address.
func maskOf(p netip.Prefix) netip.Addr {
	m, _ := netip.AddrFromSlice(net.CIDRMask(p.Bits(), p.Addr().BitLen()))
	return m
}

// ones is the length of a prefix by its mask.
func ones(mask netip.Addr) (n int) {
	for _, b := range mask.AsSlice() {
		for ; b != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// forever is ND6_INFINITE_LIFETIME of netinet6/nd6.h.
const forever uint32 = 0xffffffff

// aliasReq is a struct ifaliasreq with a mark of at most 8 bytes.
func aliasReq(name string, p netip.Prefix, mark string) []byte {
	b := named(sizeAliasReq, name)
	putAddr(b[nameSize:], p.Addr())
	putAddr(b[aliasMaskAt:], maskOf(p))
	copy(b[aliasMarkAt:aliasMaskAt+sizeSockaddr4], mark)
	return b
}

// aliasReq6 is a struct in6_aliasreq; both lifetimes are in seconds.
func aliasReq6(name string, p netip.Prefix, lifetime uint32) []byte {
	const maskAt = nameSize + 2*sizeSockaddr6
	b := named(sizeAliasReq6, name)
	putAddr(b[nameSize:], p.Addr())
	putAddr(b[maskAt:], maskOf(p))
	binary.NativeEndian.PutUint32(b[aliasLifetimeAt+validLifetimeAt:], lifetime)
	binary.NativeEndian.PutUint32(b[aliasLifetimeAt+validLifetimeAt+4:], lifetime)
	return b
}

// addrReq is a struct ifreq or in6_ifreq with an address.
func addrReq(name string, a netip.Addr) []byte {
	size := sizeIfreq
	if a.Is6() {
		size = sizeIfreq6
	}
	b := named(size, name)
	putAddr(b[nameSize:], a)
	return b
}

// memberReq is a struct ifbreq of a member of a bridge.
func memberReq(member string) []byte { return named(sizeBridgeReq, member) }

// staticReq is a struct ifbareq: a MAC that a bridge knows to be at a member.
func staticReq(member string, mac net.HardwareAddr) []byte {
	const flagsAt, macAt, static = nameSize + 8, nameSize + 9, 1 // IFBAF_STATIC
	b := named(sizeBridgeAReq, member)
	b[flagsAt] = static
	copy(b[macAt:], mac)
	return b
}

// groupReq is a struct ifgroupreq with the name of a group.
func groupReq(name, group string) []byte {
	b := named(sizeGroupReq, name)
	copy(b[nameSize+8:nameSize+8+maxInterface], group)
	return b
}

// countersOf reads a struct if_data of the host's end: what it sends, the task receives.
func countersOf(b []byte) Counters {
	at := func(i int) uint64 { return binary.NativeEndian.Uint64(b[i:]) }
	return Counters{BytesIn: at(ifDataBytesO), BytesOut: at(ifDataBytes), PacketsIn: at(ifDataOut),
		PacketsOut: at(ifDataPackets)}
}

// Numbers of netlink/netlink.h and netlink/route/interface.h.
const (
	nlNewLink                      = 16
	nlRequest, nlAck, nlExcl, nlCr = 1, 4, 0x200, 0x400
	nlHeader                       = 16
	nlError                        = 2

	iflaAddress, iflaName, iflaMTU, iflaLinkInfo, iflaAlias = 1, 3, 4, 18, 20
	iflaInfoKind                                            = 1
)

// newLink is a netlink message that makes an interface of a kind, such as epair, with a description: it has it
// before anybody can see that it is there. The change that it asks for is none.
func newLink(seq uint32, kind, name, description string) []byte {
	const changeAt, loopback = 12, 8 // ifi_change; IFF_LOOPBACK, which the kernel does not change
	info := make([]byte, 16)
	binary.NativeEndian.PutUint32(info[changeAt:], loopback)
	body := attribute(info, iflaName, append([]byte(name), 0))
	body = attribute(body, iflaLinkInfo, attribute(nil, iflaInfoKind, append([]byte(kind), 0)))
	body = attribute(body, iflaAlias, append([]byte(description), 0))
	b := binary.NativeEndian.AppendUint32(nil, uint32(nlHeader+len(body)))
	b = binary.NativeEndian.AppendUint16(b, nlNewLink)
	b = binary.NativeEndian.AppendUint16(b, nlRequest|nlAck|nlExcl|nlCr)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return append(binary.NativeEndian.AppendUint32(b, 0), body...)
}

// attribute appends a struct nlattr with its value, and what it takes to a multiple of 4.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}
