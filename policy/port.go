package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Port asks for ports of the host, from First to Last, 1 to 65535. Name is what
// the image calls them; it is no part of what is decided.
type Port struct {
	Name        string
	First, Last int
	Protocol    string // tcp or udp
}

func init() {
	register(kind{name: "port", attribute: "ports", read: readList, index: oneByOne(byPort),
		rule: func(i item) (rule, error) {
			p, err := parsePorts(i.value)
			return portRule(p), err
		},
		parse: parsePort,
		asserted: func(i item) (Privilege, error) {
			if !strings.Contains(i.value, "/") {
				i.value += "/tcp"
			}
			return parsePort("", i.value)
		}})
}

func parsePort(name, value string) (Privilege, error) {
	p, err := parsePorts(value)
	p.Name = name
	return p, err
}

// Kind implements Privilege.
func (Port) Kind() Kind { return "port" }

func (p Port) String() string {
	if p.Name == "" {
		return "port " + p.value()
	}
	return fmt.Sprintf("port %s (%s)", p.value(), p.Name)
}

func (p Port) Key() string            { return "port:" + p.value() }
func (p Port) form() (string, string) { return p.Name, p.value() }
func (p Port) permit() string         { return "ports = [" + quoteHCL(p.value()) + "]" }

// value is "80/tcp" or "80-90/tcp".
func (p Port) value() string {
	out := strconv.Itoa(p.First)
	if p.Last != p.First {
		out += "-" + strconv.Itoa(p.Last)
	}
	if p.Protocol != "" {
		out += "/" + p.Protocol
	}
	return out
}

// parsePorts reads "80", "1024-65535", "53/udp".
func parsePorts(s string) (Port, error) {
	if s == "*" {
		return Port{}, fmt.Errorf("%q: write 1-65535 for all ports", s)
	}
	ports, proto, given := strings.Cut(s, "/")
	if given && proto != "tcp" && proto != "udp" {
		return Port{}, fmt.Errorf("%q: the protocol must be tcp or udp", s)
	}
	lo, hi, isRange := strings.Cut(ports, "-")
	if !isRange {
		hi = lo
	}
	first, ok1 := number(lo)
	last, ok2 := number(hi)
	if !ok1 || !ok2 || first < 1 || last > 65535 || first > last {
		return Port{}, fmt.Errorf("%q is not a valid port or range (1 to 65535)", s)
	}
	return Port{First: int(first), Last: int(last), Protocol: proto}, nil
}

// known tells whether these are ports at all, and of one protocol.
func (p Port) known() bool {
	return (p.Protocol == "tcp" || p.Protocol == "udp") && 1 <= p.First && p.First <= p.Last && p.Last <= 65535
}

// portRule has no protocol where it is about both.
type portRule Port

func (r portRule) covers(p Privilege, _ *Subject) bool {
	a := p.(Port)
	return a.known() && r.First <= a.First && a.Last <= r.Last && r.speaks(a)
}

func (r portRule) touches(p Privilege) bool {
	a := p.(Port)
	return !a.known() || r.First <= a.Last && a.First <= r.Last && r.speaks(a)
}

func (r portRule) speaks(a Port) bool { return r.Protocol == "" || r.Protocol == a.Protocol }

// byPort is near for ports. It is compact, as they are compared one by one.
func byPort(of []entry) near {
	type span struct{ first, last uint16 }
	spans := make([]span, len(of))
	for i, e := range of {
		r := e.rule.(portRule)
		spans[i] = span{uint16(r.First), uint16(r.Last)}
	}
	return func(p Privilege, _ bool, f func(int) bool) {
		a := p.(Port)
		all := !a.known()
		for i, s := range spans {
			if (all || int(s.first) <= a.Last && a.First <= int(s.last)) && f(i) {
				return
			}
		}
	}
}
