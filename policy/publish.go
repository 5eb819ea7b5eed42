package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Publish asks for ports of the host at one of its addresses, or at all of them where that is not
// valid, that lead to a task.
func Publish(at netip.Addr, ports Port) Privilege {
	ports.Name = ""
	return publication{plain(at), ports}
}

type publication struct {
	at    netip.Addr
	ports Port
}

func init() {
	register(kind{name: "publish", attribute: "publish", read: readList,
		parse: func(_, value string) (Privilege, error) { return parsePublication(value) },
		asserted: func(i item) (Privilege, error) {
			if !strings.Contains(i.value, "/") {
				i.value += "/tcp"
			}
			return parsePublication(i.value)
		},
		rule: func(i item) (rule, error) {
			at, ports, err := parsePlace(i.value)
			return publicationRule{at, portRule(ports)}, err
		}})
}

func parsePublication(s string) (Privilege, error) {
	at, ports, err := parsePlace(s)
	if err == nil && ports.Protocol == "" {
		err = fmt.Errorf("%q: the protocol is missing (for example *:8080/tcp)", s)
	}
	return publication{at, ports}, err
}

// parsePlace reads "*:80", "192.0.2.7:53/udp" or "[2001:db8::1]:1024-65535/tcp"; the address of * is
// not valid.
func parsePlace(s string) (at netip.Addr, ports Port, err error) {
	i := strings.LastIndexByte(s, ':')
	if s == "*" || i >= 0 && s[i:] == ":*" {
		return at, ports, fmt.Errorf("%q: write %s:1-65535 for all ports", s, strings.TrimSuffix(s, ":*"))
	}
	if i < 0 {
		return at, ports, fmt.Errorf("%q has no address: write *:%s for every address of the host", s, s)
	}
	if ports, err = parsePorts(s[i+1:]); err != nil {
		return at, ports, err
	}
	host := s[:i]
	if host == "*" {
		return at, ports, nil
	}
	inner, opened := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if at, err = parseAddress(inner); err != nil {
		return at, ports, fmt.Errorf("%q: want *:PORT, ADDRESS:PORT or [ADDRESS]:PORT: %w", s, err)
	}
	if opened != at.Is6() || closed != at.Is6() {
		return at, ports, fmt.Errorf("%q: want [ ] around an address of IPv6, and of no other", s)
	}
	return at, ports, nil
}

func (publication) Kind() Kind               { return "publish" }
func (p publication) String() string         { return "publish " + p.place() }
func (p publication) Key() string            { return "publish:" + p.place() }
func (p publication) form() (string, string) { return "", p.place() }
func (p publication) includes() Privilege    { return p.ports }
func (p publication) permit() string         { return "publish = [" + quoteHCL(p.place()) + "]" }

// place is what parsePlace reads.
func (p publication) place() string {
	if !p.at.IsValid() {
		return "*:" + p.ports.value()
	}
	return strings.TrimSuffix(netip.AddrPortFrom(p.at, 0).String(), "0") + p.ports.value()
}

// publicationRule is of ports at an address, or at all of them where that is not valid. 0.0.0.0 is
// all of IPv4, and :: all of IPv6.
type publicationRule struct {
	at    netip.Addr
	ports portRule
}

func (r publicationRule) covers(p Privilege, s *Subject) bool {
	a := p.(publication)
	return contains(r.at, a.at) && r.ports.covers(a.ports, s)
}

// touches takes :: for IPv4 too: a socket of IPv6 may get both.
func (r publicationRule) touches(p Privilege) bool {
	a := p.(publication)
	meets := contains(r.at, a.at) || contains(a.at, r.at) ||
		r.at == netip.IPv6Unspecified() || a.at == netip.IPv6Unspecified()
	return meets && r.ports.touches(a.ports)
}

// contains tells whether all of the host's addresses that one stands for are among those of another.
func contains(all, one netip.Addr) bool {
	return !all.IsValid() || all == one || all.IsUnspecified() && one.IsValid() && all.BitLen() == one.BitLen()
}
