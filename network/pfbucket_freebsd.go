package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"
)

// Numbers of net/pfvar.h: DIOCADDRULE, DIOCBEGINADDRS, DIOCADDADDR, DIOCXBEGIN, DIOCXCOMMIT and DIOCXROLLBACK.
const (
	pfAddRule    = 4
	pfBeginAddrs = 51
	pfAddAddr    = 52
	pfBegin      = 81
	pfCommit     = 82
	pfRollback   = 83
)

// PF_RULESET_NAT and PF_RULESET_RDR of netpfil/pf/pf.h.
const (
	pfSetNAT = 2
	pfSetRDR = 4
)

// pfiocTrans is struct pfioc_trans of net/pfvar.h, with its elements.
type pfiocTrans struct {
	Size, Esize int32
	Array       *pfTransElement
}

type pfTransElement struct {
	Set    int32
	Anchor pfPath
	Ticket uint32
}

// pfiocPool is struct pfioc_pooladdr: an address that packets are translated to.
type pfiocPool struct {
	Action, Ticket, NR, RNR uint32
	RAction, RLast, Family  uint8
	Anchor                  pfPath
	_                       [5]byte
	Address                 [48]byte // struct pf_addr_wrap
	_                       [40]byte
}

// Offsets in struct pf_rule of net/pfvar.h, the same in FreeBSD 14 and 15, and in struct pf_rule_addr and struct
// pf_addr_wrap.
const (
	pfRuleSrc       = 0
	pfRuleDst       = 56
	pfRuleInterface = 240
	pfRuleTag       = 384
	pfRulePorts     = 620 // of the pool: first and last, in the host's order
	pfRuleTable     = 700
	pfRuleIfNot     = 909
	pfRuleFamily    = 913
	pfRuleProto     = 914

	pfAddrMask   = 16
	pfAddrPorts  = 48 // in the network's order
	pfAddrPortOp = 53

	pfOpEqual = 2 // PF_OP_EQ
	pfOpRange = 9 // PF_OP_RRG: both included

	// PF_NAT_PROXY_PORT_LOW and _HIGH: the source ports that nat chooses from.
	pfPortLow, pfPortHigh = 50001, 65535
)

// pfRawRule is struct pf_rule.
type pfRawRule [976]byte

func (r *pfRawRule) addr(at int, a netip.Addr) {
	n := copy(r[at:], a.AsSlice())
	for i := range n {
		r[at+pfAddrMask+i] = 0xff
	}
}

func (r *pfRawRule) interfaces(name string, not bool) {
	copy(r[pfRuleInterface:pfRuleInterface+15], name)
	if not {
		r[pfRuleIfNot] = 1
	}
}

func (r *pfRawRule) toPorts(first, last uint16) {
	binary.NativeEndian.PutUint16(r[pfRulePorts:], first)
	binary.NativeEndian.PutUint16(r[pfRulePorts+2:], last)
}

// pfRaw is a rule, and what it translates to.
type pfRaw struct {
	rule pfRawRule
	to   netip.Addr
	set  int32
}

func newPFRaw(kind byte, set int32, to netip.Addr) *pfRaw {
	raw := &pfRaw{to: to.Unmap().WithZone(""), set: set}
	raw.rule[pfRuleAction] = kind
	raw.rule[pfRuleFamily] = inet6
	if raw.to.Is4() {
		raw.rule[pfRuleFamily] = inet
	}
	binary.NativeEndian.PutUint32(raw.rule[pfRuleTable:], ^uint32(0)) // no other routing table
	return raw
}

func (h pfHairpin) raw() *pfRaw {
	raw := newPFRaw(pfNAT, pfSetNAT, h.gateway)
	raw.rule.interfaces(h.bridge.text, false)
	raw.rule.addr(pfRuleSrc, h.task)
	raw.rule.addr(pfRuleDst, h.task)
	raw.rule.toPorts(pfPortLow, pfPortHigh)
	return raw
}

func (r pfRedirect) raw() *pfRaw {
	raw := newPFRaw(pfRDR, pfSetRDR, r.to)
	raw.rule.interfaces("lo0", true)
	raw.rule.addr(pfRuleDst, r.at.Unmap().WithZone(""))
	raw.rule[pfRuleProto] = 6
	if r.port.Protocol == "udp" {
		raw.rule[pfRuleProto] = 17
	}
	copy(raw.rule[pfRuleTag:], "freejail_in")
	binary.BigEndian.PutUint16(raw.rule[pfRuleDst+pfAddrPorts:], r.port.First)
	raw.rule[pfRuleDst+pfAddrPortOp] = pfOpEqual
	raw.rule.toPorts(r.toPort, 0)
	if last := r.last(); last != r.port.First {
		binary.BigEndian.PutUint16(raw.rule[pfRuleDst+pfAddrPorts+2:], last)
		raw.rule[pfRuleDst+pfAddrPortOp] = pfOpRange
		raw.rule.toPorts(r.toPort, r.toPort+last-r.port.First)
	}
	return raw
}

// raw are the rules of a bucket as the kernel takes them.
func (b pfBucket) raw() (all []*pfRaw) {
	for _, h := range b.hairpins {
		all = append(all, h.raw())
	}
	for _, r := range b.redirects {
		all = append(all, r.raw())
	}
	return all
}

// loadBucket does what pfctl(8) does with the bucket's text, in a hundredth of the time: a start waits for it. A
// kernel that knows these calls no more, or an operator's pfctl at the same moment, leaves it to pfctl.
func (p *pf) loadBucket(i int, b pfBucket) error {
	if p.commit(bucketAnchor(i), b.raw()) == nil {
		return nil
	}
	_, err := p.pfctl(b.text(), "-q", "-o", "none", "-a", bucketAnchor(i), "-f", "-")
	return err
}

// commit replaces the translations of an anchor.
func (p *pf) commit(anchor string, rules []*pfRaw) error {
	d, err := openPF(os.O_RDWR)
	if err != nil {
		return err
	}
	defer d.Close()
	sets := []pfTransElement{{Set: pfSetNAT, Anchor: pfPathOf(anchor)}, {Set: pfSetRDR, Anchor: pfPathOf(anchor)}}
	trans := pfiocTrans{int32(len(sets)), int32(unsafe.Sizeof(sets[0])), unsafe.SliceData(sets)}
	if err := pfCall(d, pfBegin, &trans); err != nil {
		return fmt.Errorf("%s: anchor %s: %w", pfDevice, anchor, err)
	}
	for _, r := range rules {
		ticket := sets[0].Ticket
		if r.set == pfSetRDR {
			ticket = sets[1].Ticket
		}
		if err := d.add(anchor, ticket, r); err != nil {
			return errors.Join(fmt.Errorf("%s: anchor %s: %w", pfDevice, anchor, err), pfCall(d, pfRollback, &trans))
		}
	}
	return pfCall(d, pfCommit, &trans)
}

func (d pfDev) add(anchor string, ticket uint32, r *pfRaw) error {
	var pool pfiocPool
	if err := pfCall(d, pfBeginAddrs, &pool); err != nil {
		return err
	}
	pool.Family = r.rule[pfRuleFamily]
	n := copy(pool.Address[:], r.to.AsSlice())
	for i := range n {
		pool.Address[pfAddrMask+i] = 0xff
	}
	if err := pfCall(d, pfAddAddr, &pool); err != nil {
		return err
	}
	rule := pfiocRule{Ticket: ticket, PoolTicket: pool.Ticket, Anchor: pfPathOf(anchor), Rule: r.rule}
	return pfCall(d, pfAddRule, &rule)
}
