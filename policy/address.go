package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Address asks for a fixed address of a network. One of IPv4 that is written as one of IPv6 is the
// same; zones are no part of it.
func Address(a netip.Addr) Privilege { return address(plain(a)) }

type address netip.Addr

// plain is an address in its one form.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func init() {
	register(kind{name: "address", attribute: "addresses", read: readList,
		parse: func(_, value string) (Privilege, error) {
			a, err := parseAddress(value)
			return address(a), err
		},
		rule: func(i item) (rule, error) { return parseAddressRule(i.value) }})
}

// parseAddress reads an address in the one way of its family.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not a valid IP address (for example 192.0.2.7)", s)
	case a != plain(a):
		return a, fmt.Errorf("%q: write %s", s, plain(a))
	}
	return a, nil
}

func (address) Kind() Kind               { return "address" }
func (a address) String() string         { return "address " + netip.Addr(a).String() }
func (a address) Key() string            { return "address:" + netip.Addr(a).String() }
func (a address) form() (string, string) { return "", netip.Addr(a).String() }
func (a address) permit() string         { return "addresses = [" + quoteHCL(netip.Addr(a).String()) + "]" }

// addressRule is all addresses from first to last.
type addressRule struct{ first, last netip.Addr }

// parseAddressRule reads "192.0.2.7", "192.0.2.0/24" or "192.0.2.7-192.0.2.9".
func parseAddressRule(s string) (r addressRule, err error) {
	if strings.Contains(s, "/") {
		return parsePrefixRule(s)
	}
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	if r.first, err = parseAddress(first); err != nil {
		return r, err
	}
	if r.last, err = parseAddress(last); err != nil {
		return r, err
	}
	if r.first.BitLen() != r.last.BitLen() || r.last.Less(r.first) {
		return r, fmt.Errorf("%q: the range is empty", s)
	}
	return r, nil
}

func parsePrefixRule(s string) (r addressRule, err error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return r, fmt.Errorf("%q is not a valid prefix (for example 192.0.2.0/24)", s)
	case p.Addr().Is4In6():
		return r, fmt.Errorf("%q: write it as a prefix of IPv4", s)
	case p != p.Masked():
		return r, fmt.Errorf("%q: write %s", s, p.Masked())
	}
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	r.first = p.Addr()
	r.last, _ = netip.AddrFromSlice(last) // of as many bytes as the first
	return r, nil
}

func (r addressRule) covers(p Privilege, _ *Subject) bool {
	a := netip.Addr(p.(address))
	return a.IsValid() && a.BitLen() == r.first.BitLen() && !a.Less(r.first) && !r.last.Less(a)
}

func (r addressRule) touches(p Privilege) bool {
	return !netip.Addr(p.(address)).IsValid() || r.covers(p, nil)
}
