package network

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The parts of rules. A rule is a list of expressions: each loads something into a register, compares
// one, or decides. Registers have numbers from 8 on of 4 bytes each, and 1 begins where 8 does
// (linux/netfilter/nf_tables.h, enum nft_registers).

type part = []expr.Any

func join(parts ...any) part {
	var out part
	for _, p := range parts {
		switch p := p.(type) {
		case part:
			out = append(out, p...)
		case expr.Any:
			out = append(out, p)
		}
	}
	return out
}

var (
	accept = &expr.Verdict{Kind: expr.VerdictAccept}
	drop   = &expr.Verdict{Kind: expr.VerdictDrop}
	ret    = &expr.Verdict{Kind: expr.VerdictReturn}
)

func jump(c *nftables.Chain) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name} }

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func equal(reg uint32, b []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b}
}

func unequal(reg uint32, b []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: b}
}

func load(reg uint32, b []byte) expr.Any { return &expr.Immediate{Register: reg, Data: b} }

// in is a key in a set; it begins at register 8.
func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: 8, SetName: s.Name, SetID: s.ID}
}

// lookup is the value of a key, which replaces it.
func lookup(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: 8, DestRegister: 8, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// from is what comes by a link of a task, to what leaves by one.
func (r *table) from() part { return r.byGroup(expr.MetaKeyIIFGROUP, expr.CmpOpEq) }
func (r *table) to() part   { return r.byGroup(expr.MetaKeyOIFGROUP, expr.CmpOpEq) }

func (r *table) fromOthers() part { return r.byGroup(expr.MetaKeyIIFGROUP, expr.CmpOpNeq) }
func (r *table) toOthers() part   { return r.byGroup(expr.MetaKeyOIFGROUP, expr.CmpOpNeq) }

func (r *table) byGroup(key expr.MetaKey, op expr.CmpOp) part {
	return part{meta(key, 8), &expr.Cmp{Op: op, Register: 8, Data: native(r.group)}}
}

// toHost is what is for an address of the host.
func (r *table) toHost() part {
	return part{&expr.Fib{Register: 8, ResultADDRTYPE: true, FlagDADDR: true}, equal(8, native(unix.RTN_LOCAL))}
}

func (f ipFamily) is() part { return part{meta(expr.MetaKeyNFPROTO, 8), equal(8, []byte{f.proto})} }

// load reads an address of the header.
func (f ipFamily) load(offset, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}

// within is a packet whose address at offset lies in a prefix.
func (f ipFamily) within(offset uint32, p netip.Prefix) part {
	return join(f.is(), f.masked(offset, p))
}

// masked is within of packets that are known to be of the family.
func (f ipFamily) masked(offset uint32, p netip.Prefix) part {
	return part{f.load(offset, 8), &expr.Bitwise{SourceRegister: 8, DestRegister: 8, Len: f.size, Mask: ipNet(p).Mask,
		Xor: make([]byte, f.size)}, equal(8, p.Masked().Addr().AsSlice())}
}

func (f ipFamily) loopback() part {
	if f.size == 4 {
		return f.within(f.dst, netip.MustParsePrefix("127.0.0.0/8"))
	}
	return f.within(f.dst, netip.MustParsePrefix("::1/128"))
}

// nat translates to the address in register 8, and of a destination to the port behind it.
func (f ipFamily) nat(destination bool) expr.Any {
	if destination {
		return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: 8, RegProtoMin: 8 + f.size/4}
	}
	return &expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.proto), RegAddrMin: 1}
}

// ping is an echo request.
func (f ipFamily) ping() part {
	proto, kind := byte(unix.IPPROTO_ICMP), byte(8)
	if f.size == 16 {
		proto, kind = unix.IPPROTO_ICMPV6, 128
	}
	return join(f.is(), meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{proto}), transport(8, 0, 1),
		equal(8, []byte{kind}))
}

// discovery is that of neighbours and routers, ICMPv6 133 to 137 (RFC 4861).
var discovery = part{meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{unix.IPPROTO_ICMPV6}), transport(8, 0, 1),
	&expr.Range{Op: expr.CmpOpEq, Register: 8, FromData: []byte{133}, ToData: []byte{137}}}

func icmp6(kind byte) part {
	return part{meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{unix.IPPROTO_ICMPV6}), transport(8, 0, 1),
		equal(8, []byte{kind})}
}

func transport(reg, offset, size uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
}

// dport reads the destination's port of TCP or UDP.
func dport(reg uint32) expr.Any { return transport(reg, 2, 2) }

// toMetadata is what is for a metadata service of a cloud, of packets of the family: by TCP, and not for a name.
func (r *table) toMetadata(f ipFamily) (all []part) {
	if f.has(wireServer) {
		for _, p := range wireServerPorts {
			all = append(all, join(f.masked(f.dst, netip.PrefixFrom(wireServer, 32)), onPort(p)))
		}
	}
	s := r.metadata[f.size]
	if s == nil {
		s = r.set("metadata"+f.suffix, f.kind)
		var elements []nftables.SetElement
		for _, a := range metadata {
			if f.has(a) {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		r.fill(s, elements)
		r.metadata[f.size] = s
	}
	return append(all, part{f.load(f.dst, 8), in(s), meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{unix.IPPROTO_TCP}),
		dport(8), unequal(8, portBytes(53)[:2])})
}

// onPort is a packet for one of a range.
func onPort(p Port) part {
	return part{meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{protocol(p.Protocol)}), dport(8),
		&expr.Range{Op: expr.CmpOpEq, Register: 8, FromData: portBytes(p.First)[:2], ToData: portBytes(p.last())[:2]}}
}

// known is a packet of a connection that was let through, or an error that belongs to one.
var known = ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)

// dnatted is a packet of a connection whose destination was translated: IPS_DST_NAT of
// linux/netfilter/nf_conntrack_common.h.
var dnatted = ctBits(expr.CtKeySTATUS, 1<<5)

func ctBits(key expr.CtKey, bits uint32) part {
	return part{&expr.Ct{Key: key, Register: 8},
		&expr.Bitwise{SourceRegister: 8, DestRegister: 8, Len: 4, Mask: native(bits), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 8, Data: native(0)}}
}

func protocol(name string) byte {
	if name == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// Fields of a key have a multiple of 4 bytes.

func portBytes(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

func portKey(proto string, p uint16) []byte {
	return slices.Concat([]byte{protocol(proto), 0, 0, 0}, portBytes(p))
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// newTable replaces a table by an empty one. It is added first, so that it is there to be deleted.
func (r *table) newTable(name string, f nftables.TableFamily) {
	r.metadata = map[uint32]*nftables.Set{}
	r.table = r.conn.AddTable(&nftables.Table{Name: name, Family: f})
	r.conn.DelTable(r.table)
	r.table = r.conn.AddTable(&nftables.Table{Name: name, Family: f})
}

func (r *table) chain(name string) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table})
}

func (r *table) hook(name string, t nftables.ChainType, h *nftables.ChainHook,
	p nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: t, Hooknum: h, Priority: &p,
		Policy: &policy})
}

func (r *table) add(c *nftables.Chain, parts ...any) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: join(parts...)})
}

// refuse answers that nothing is there: a program does not wait for long.
func (r *table) refuse(c *nftables.Chain, parts ...any) {
	tcp := part{meta(expr.MetaKeyL4PROTO, 8), equal(8, []byte{unix.IPPROTO_TCP})}
	r.add(c, join(parts...), tcp, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	r.add(c, join(parts...), &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH,
		Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
}

func (r *table) set(name string, key ...nftables.SetDatatype) *nftables.Set {
	return r.addSet(&nftables.Set{Name: name, KeyType: nftables.MustConcatSetType(key...)})
}

// ranges is a set whose elements have ends.
func (r *table) ranges(name string, key ...nftables.SetDatatype) *nftables.Set {
	return r.addSet(&nftables.Set{Name: name, KeyType: nftables.MustConcatSetType(key...), Interval: true,
		Concatenation: true})
}

// mapping leads to an address and a port.
func (r *table) mapping(name string, f ipFamily, key ...nftables.SetDatatype) *nftables.Set {
	return r.addSet(&nftables.Set{Name: name, IsMap: true, KeyType: nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(f.kind, nftables.TypeInetService)})
}

func (r *table) addSet(s *nftables.Set) *nftables.Set {
	s.Table = r.table
	if err := r.conn.AddSet(s, nil); err != nil && r.err == nil {
		r.err = err
	}
	return s
}

// fill adds elements in parts: the length of a list of them is a number of 16 bits.
func (r *table) fill(s *nftables.Set, elements []nftables.SetElement) {
	for some := range slices.Chunk(elements, 256) {
		if err := r.conn.SetAddElements(s, some); err != nil && r.err == nil {
			r.err = err
		}
	}
}
