package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The kinds of this file are of the tests alone, and so are their names. They show that a kind is one
// file: what is here is all that there is of them.

// aNetwork asks for a network of the host, by its name.
func aNetwork(name string) Privilege { return named{"test-network", "network", name} }

// anAddress asks for a fixed address.
type anAddress struct{ netip.Addr }

// publication asks for ports of the host at one of its addresses; the unspecified one is all of them.
type publication struct {
	at netip.Addr
	Port
}

func init() {
	registerNamed(aNetwork, func(name string) []string { return []string{name} })
	register(kind{name: "test-address", attribute: "test-addresses", read: readList, parse: parseAddress,
		rule: func(i item) (rule, error) {
			p, err := netip.ParsePrefix(i.value)
			if addr, aerr := netip.ParseAddr(i.value); aerr == nil {
				p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
			return addressRule{p.Masked()}, err
		}})
	register(kind{name: "test-publish", attribute: "test-publish", read: readList, parse: parsePublication,
		rule: func(i item) (rule, error) { return parsePublicationRule(i.value) }})

	cases["test-network"] = rulings{Request{aNetwork("back-end"), ""}, `test-networks = ["back-*"]`,
		`test-networks = ["back"]`, `test-networks = ["*-end"]`}
	cases["test-address"] = rulings{req("test-address", "", "192.0.2.7"), `test-addresses = ["192.0.2.0/28"]`,
		`test-addresses = ["192.0.2.8/29", "192.0.2.6"]`,
		`test-addresses = ["192.0.2.7"]`}
	cases["test-publish"] = rulings{req("test-publish", "", "192.0.2.7:8080/tcp"),
		`test-publish = ["192.0.2.7:8000-9000/tcp"]`, `test-publish = ["192.0.2.6:8080", "192.0.2.7:8080/udp"]`,
		`test-publish = ["*:8080"]`}
	moreForms = append(moreForms, form{Request{aNetwork("a*"), ""}, "network a*", "test-network:a*",
		`test-networks = ["a\\*"]`, ""},
		form{req("test-address", "", "2001:db8::1"), "address 2001:db8::1", "test-address:2001:db8::1",
			`test-addresses = ["2001:db8::1"]`, "test-address:2001:db8:0::1"},
		form{req("test-publish", "", "[2001:db8::1]:80/tcp"), "port 80/tcp at 2001:db8::1",
			"test-publish:[2001:db8::1]:80/tcp", `test-publish = ["[2001:db8::1]:80/tcp"]`, ""})
	moreDenials["test-network"] = func() []denials {
		return []denials{words("test-network", `test-networks = [%q]`, `test-networks = ["*"]`, []string{"dmz", "d*"},
			requests("test-network", "", "dmz", "lan"), [][]string{{"dmz", "d*"}})}
	}
	moreDenials["test-address"] = func() []denials {
		return []denials{words("test-address", `test-addresses = [%q]`, `test-addresses = ["0.0.0.0/0", "::/0"]`,
			[]string{"192.0.2.0/24", "192.0.2.1"},
			requests("test-address", "", "192.0.2.1", "::1"), [][]string{{"192.0.2.0/24", "192.0.2.1"}})}
	}
	moreDenials["test-publish"] = func() []denials {
		return []denials{words("test-publish", `test-publish = [%q]`, `test-publish = ["*:1-65535"]`,
			[]string{"192.0.2.1:80", "*:80/tcp"},
			requests("test-publish", "", "192.0.2.1:80/tcp", "0.0.0.0:1-99/tcp", "192.0.2.1:81/tcp"),
			[][]string{{"192.0.2.1:80", "*:80/tcp", "192.0.2.1:80/tcp", "0.0.0.0:1-99/tcp"}})}
	}
}

func parseAddress(_, value string) (Privilege, error) {
	a, err := netip.ParseAddr(value)
	return anAddress{a}, err
}

func (anAddress) Kind() Kind               { return "test-address" }
func (a anAddress) String() string         { return "address " + a.Addr.String() }
func (a anAddress) Key() string            { return "test-address:" + a.Addr.String() }
func (a anAddress) form() (string, string) { return "", a.Addr.String() }
func (a anAddress) permit() string         { return fmt.Sprintf("test-addresses = [%q]", a.Addr) }

type addressRule struct{ netip.Prefix }

func (r addressRule) covers(p Privilege, _ *Subject) bool { return r.Contains(p.(anAddress).Addr) }
func (r addressRule) touches(p Privilege) bool            { return r.covers(p, nil) }

func parsePublication(_, value string) (Privilege, error) {
	i := max(0, strings.LastIndex(value, ":"))
	ports, err := parsePorts(strings.TrimPrefix(value[i:], ":"))
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddr(strings.Trim(value[:i], "[]"))
	return publication{at, ports}, err
}

func (publication) Kind() Kind               { return "test-publish" }
func (p publication) String() string         { return fmt.Sprintf("port %s at %s", p.value(), p.at) }
func (p publication) Key() string            { return "test-publish:" + p.where() }
func (p publication) form() (string, string) { return "", p.where() }
func (p publication) permit() string         { return fmt.Sprintf("test-publish = [%q]", p.where()) }
func (p publication) where() string {
	return strings.TrimSuffix(netip.AddrPortFrom(p.at, 0).String(), "0") + p.value()
}

// publicationRule is "*:80" or "192.0.2.1:1024-65535/tcp".
type publicationRule struct {
	at    netip.Addr // not valid: any
	ports portRule
}

func parsePublicationRule(s string) (rule, error) {
	ports, all := strings.CutPrefix(s, "*:")
	if all {
		p, err := parsePorts(ports)
		return publicationRule{ports: portRule(p)}, err
	}
	p, err := parsePublication("", s)
	if err != nil {
		return nil, err
	}
	return publicationRule{p.(publication).at, portRule(p.(publication).Port)}, nil
}

func (r publicationRule) covers(p Privilege, s *Subject) bool {
	a := p.(publication)
	return (!r.at.IsValid() || r.at == a.at) && r.ports.covers(a.Port, s)
}

func (r publicationRule) touches(p Privilege) bool {
	a := p.(publication)
	return (!r.at.IsValid() || r.at == a.at || a.at.IsUnspecified() || r.at.IsUnspecified()) && r.ports.touches(a.Port)
}

// TestAKindIsOneFile has the kinds of this file go the way that no other test goes with every kind.
func TestAKindIsOneFile(t *testing.T) {
	p := mustParse(t, `permit {
  test-networks  = ["back-end"]
  test-addresses = ["192.0.2.0/28"]
  test-publish   = ["192.0.2.7:8080/tcp"]
}
deny {
  test-addresses = ["192.0.2.1"]
}
test "the back end" {
  image = "web"
  allowed {
    test-networks  = ["back-end"]
    test-addresses = ["192.0.2.7"]
    test-publish   = ["192.0.2.7:8080/tcp"]
  }
  refused {
    test-networks  = ["dmz"]
    test-addresses = ["192.0.2.1", "192.0.2.16"]
    test-publish   = ["0.0.0.0:8080/tcp"]
  }
}`)
	if n, failures := p.Test(); n != 7 || len(failures) != 0 {
		t.Errorf("%d assertions, %+v", n, failures)
	}
	s := Subject{Image: "web", Repository: "web", Digest: digestA}
	d := p.Decide(s, []Request{req("test-publish", "", "0.0.0.0:22/tcp", FromJob)}, nil)
	want := "an operator of this host can approve it"
	if err := d.Err(s); err == nil || !strings.Contains(strings.ToLower(err.Error()), want) ||
		!strings.Contains(err.Error(), "--request test-publish:0.0.0.0:22/tcp") ||
		!strings.Contains(d.Results[0].Permit, `test-publish = ["0.0.0.0:22/tcp"]`) {
		t.Errorf("%v: %+v", err, d)
	}
	if _, err := Parse("p.hcl", []byte(`permit { published = ["x"] }`), devfsRules); err == nil ||
		!strings.Contains(err.Error(), "test-networks, ") {
		t.Errorf("the attributes that there are: %v", err)
	}
	if !slices.Contains(Kinds(), "test-network") {
		t.Errorf("the kinds are %v", Kinds())
	}
}
