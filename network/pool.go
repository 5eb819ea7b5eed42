package network

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"time"
)

// rest is how long a released address is given to nobody, as long as there are others: neighbours and
// resolvers know it still. It is longer than TIME_WAIT, 60 s in RFC 9293's implementations.
const rest = 2 * time.Minute

// pool gives the addresses of all networks. The caller locks.
type pool struct {
	held    map[netip.Addr]string     // holders
	resting map[netip.Addr]time.Time  // since when
	queue   []resting                 // in the order of their releases; some are given again since
	next    map[netip.Addr]netip.Addr // where a range, known by its first address, is searched from
	now     func() time.Time
}

type resting struct {
	addr  netip.Addr
	since time.Time
}

func newPool() *pool {
	return &pool{held: map[netip.Addr]string{}, resting: map[netip.Addr]time.Time{},
		next: map[netip.Addr]netip.Addr{}, now: time.Now}
}

// hold notes whose an address is.
func (p *pool) hold(a netip.Addr, holder string) {
	p.held[a] = holder
	delete(p.resting, a)
}

// release has an address rest.
func (p *pool) release(a netip.Addr) {
	delete(p.held, a)
	p.resting[a] = p.now()
	p.queue = append(p.queue, resting{a, p.resting[a]})
}

// rested forgets those that have rested for long enough.
func (p *pool) rested() {
	for len(p.queue) > 0 {
		r := p.queue[0]
		since, still := p.resting[r.addr]
		still = still && since.Equal(r.since)
		if still && p.now().Sub(since) < rest {
			return
		}
		if still {
			delete(p.resting, r.addr)
		}
		p.queue = p.queue[1:]
	}
}

// choose finds a free address of a range: one that was not given for a while, else the one that has
// rested longest. taken tells of others that cannot be given.
func (p *pool) choose(r Range, reserved map[netip.Addr]bool) (netip.Addr, bool) {
	p.rested()
	a, ok := p.next[r.First]
	if !ok || !r.Contains(a) {
		a = r.First
	}
	for start := a; ; {
		_, rests := p.resting[a]
		if p.held[a] == "" && !rests && !reserved[a] {
			p.next[r.First] = r.after(a)
			return a, true
		}
		if a = r.after(a); a == start {
			return p.longest(r, reserved)
		}
	}
}

// longest is the address of a range that has rested longest.
func (p *pool) longest(r Range, reserved map[netip.Addr]bool) (netip.Addr, bool) {
	for _, q := range p.queue {
		since, still := p.resting[q.addr]
		if still && since.Equal(q.since) && r.Contains(q.addr) && !reserved[q.addr] {
			return q.addr, true
		}
	}
	return netip.Addr{}, false
}

// after is the next address of a range, the first after the last.
func (r Range) after(a netip.Addr) netip.Addr {
	if a == r.Last {
		return r.First
	}
	return a.Next()
}

func (r Range) String() string { return fmt.Sprintf("%s to %s", r.First, r.Last) }

// overlaps tells whether ranges have an address in common.
func (r Range) overlaps(o Range) bool {
	return r.First.IsValid() && o.First.IsValid() && r.First.BitLen() == o.First.BitLen() &&
		r.First.Compare(o.Last) <= 0 && o.First.Compare(r.Last) <= 0
}

// RangeOf is all of a prefix.
func RangeOf(p netip.Prefix) Range {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last) // of the length of an address
	return Range{p.Masked().Addr(), a}
}

// PoolOf is all that tasks can have of a subnet of a network whose gateways are known.
func (n Network) PoolOf(subnet netip.Prefix) Range {
	if !subnet.IsValid() {
		return Range{}
	}
	all, reserved := RangeOf(subnet), n.reserved()
	r := all
	for reserved[r.First] && r.First != all.Last {
		r.First = r.First.Next()
	}
	for reserved[r.Last] && r.Last != r.First {
		r.Last = r.Last.Prev()
	}
	return r
}

// number is an address as a number.
func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// reserved are the addresses of a network that are not given to tasks: the gateways, of IPv4 the
// network's and the broadcast address, of IPv6 that of all routers (RFC 4291, 2.6.1). RFC 3021 and
// RFC 6164 have prefixes of two addresses without these.
func (n Network) reserved() map[netip.Addr]bool {
	list := map[netip.Addr]bool{n.Gateway4: true, n.Gateway6: true}
	if n.Subnet4.IsValid() && n.Subnet4.Bits() < 31 {
		all := RangeOf(n.Subnet4)
		list[all.First], list[all.Last] = true, true
	}
	if n.Subnet6.IsValid() && n.Subnet6.Bits() < 127 {
		list[n.Subnet6.Masked().Addr()] = true
	}
	return list
}

// size counts the addresses of a range that tasks can have; more than an int holds are MaxInt.
func (n Network) size(r Range) int {
	if !r.First.IsValid() {
		return 0
	}
	count := new(big.Int).Sub(number(r.Last), number(r.First))
	count.Add(count, big.NewInt(1))
	for a := range n.reserved() {
		if r.Contains(a) {
			count.Sub(count, big.NewInt(1))
		}
	}
	if !count.IsInt64() {
		return math.MaxInt
	}
	return int(count.Int64())
}
