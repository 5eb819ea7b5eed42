package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestNetworks has the requests of a job in a network judged by a policy's own tests, and refused in
// words that an operator can use.
func TestNetworks(t *testing.T) {
	p := mustParse(t, `permit {
  networks  = ["back-end"]
  addresses = ["192.0.2.0/28", "2001:db8::10-2001:db8::1f"]
  publish   = ["192.0.2.7:8080/tcp", "0.0.0.0:53"]
}
deny {
  addresses = ["192.0.2.1"]
}
test "the back end" {
  image = "web"
  from  = "job"
  allowed {
    networks  = ["back-end", "none"]
    addresses = ["192.0.2.7", "192.0.2.0", "192.0.2.15", "2001:db8::10", "2001:db8::1f"]
    publish   = ["192.0.2.7:8080", "0.0.0.0:53/udp", "198.51.100.1:53", "*:20000-32000/udp", "[::1]:20000"]
  }
  refused {
    networks  = ["dmz", "host", "back-end2"]
    addresses = ["192.0.2.1", "192.0.2.16", "2001:db8::f", "2001:db8::20"]
    publish   = ["0.0.0.0:8080/tcp", "*:8080", "192.0.2.7:8080/udp", "*:53", "[::]:53", "[2001:db8::1]:53",
      "*:19999-20000"]
  }
}
test "an image asks for no port of the host that nobody gave" {
  image = "web"
  refused {
    publish = ["*:20000/tcp"]
  }
}`)
	if n, failures := p.Test(); n != 27 || len(failures) != 0 {
		t.Errorf("%d assertions, %+v", n, failures)
	}
	s := Subject{Image: "web", Repository: "web", Digest: digestA}
	d := p.Decide(s, []Request{req("publish", "", "*:22/tcp", FromJob)}, nil)
	want := "an operator of this host can approve it"
	if err := d.Err(s); err == nil || !strings.Contains(strings.ToLower(err.Error()), want) ||
		!strings.Contains(err.Error(), "--request 'publish:*:22/tcp'") ||
		!strings.Contains(d.Results[0].Permit, `publish = ["*:22/tcp"]`) {
		t.Errorf("%v: %+v", err, d)
	}
	if !slices.Contains(Kinds(), "network") {
		t.Errorf("the kinds are %v", Kinds())
	}
}

// What the host gives needs no permit, and can be denied.
func TestNetworkOfTheHost(t *testing.T) {
	asked := []Request{{Network("lan"), FromHost}, {Network("none"), FromJob}}
	if d := mustParse(t, "").Decide(Subject{}, asked, nil); !d.Allowed {
		t.Errorf("without a permit: %+v", d.Results)
	}
	for _, denied := range []string{"lan", "none", "*"} {
		d := mustParse(t, `deny { networks = ["`+denied+`"] }`).Decide(Subject{}, asked, nil)
		for i, name := range []string{"lan", "none"} {
			if want := denied == name || denied == "*"; d.Results[i].Denied != want {
				t.Errorf("deny %s: %+v", denied, d.Results[i])
			}
		}
	}
}

// Who denies a port of the host denies it to those too that it would lead to, and permits it to none.
func TestDenyOfAPortIsOfPublishing(t *testing.T) {
	const permit = "permit {\n publish = [\"*:1-65535\"]\n}\n"
	for src, want := range map[string]string{
		`deny { ports = ["80/tcp"] }`:             "denied at host.hcl:1",
		permit + `deny { ports = ["8085"] }`:      "denied at host.hcl:4",
		permit + `deny { ports = ["8085/udp"] }`:  "permitted at host.hcl:2",
		permit + `deny { ports = ["8086-9000"] }`: "permitted at host.hcl:2",
		`permit { ports = ["1-65535"] }`:          "no permit covers it",
	} {
		for _, asked := range []string{"*:80-8085/tcp", "192.0.2.1:80-8085/tcp", "[::]:80-8085/tcp"} {
			r := mustParse(t, src).Decide(Subject{}, []Request{req("publish", "", asked, FromJob)}, nil).Results[0]
			if r.Reason != want {
				t.Errorf("%s\n%s: %s", src, asked, r.Reason)
			}
		}
	}
}

// An address has one form, by which it is permitted and denied.
func TestFormsOfAddresses(t *testing.T) {
	mapped, zoned := netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::1%em0")
	tcp := Port{Name: "http", First: 80, Last: 80, Protocol: "tcp"}
	for key, p := range map[string]Privilege{"address:192.0.2.1": Address(mapped), "address:fe80::1": Address(zoned),
		"publish:192.0.2.1:80/tcp": Publish(mapped, tcp), "publish:[fe80::1]:80/tcp": Publish(zoned, tcp),
		"publish:*:80/tcp": Publish(netip.Addr{}, tcp)} {
		back, err := ParseKey(key)
		if p.Key() != key || err != nil || back != p {
			t.Errorf("%s: %s, read as %v: %v", key, p.Key(), back, err)
		}
	}
	for _, key := range []string{"address:::ffff:192.0.2.1", "address:fe80::1%em0", "address:192.0.2.01", "address:",
		"address:192.0.2.0/24", "address:*", "publish:80/tcp", "publish::80/tcp", "publish:*:80",
		"publish:2001:db8::1:80/tcp", "publish:[192.0.2.1]:80/tcp", "publish:[2001:db8::1:80/tcp",
		"publish:[::ffff:192.0.2.1]:80/tcp", "publish:[*]:80/tcp", "publish:localhost:80/tcp", "publish:*:0/tcp",
		"publish:*:90-80/tcp", "publish:*:080/tcp", "publish:*:80/sctp", "publish:192.0.2.1/24:80/tcp"} {
		if p, err := ParseKey(key); err == nil {
			t.Errorf("%q is read as %v", key, p)
		}
	}
	odd := []Request{{Address(netip.Addr{}), FromJob}, {Publish(netip.Addr{}, Port{First: 80, Last: 80}), FromJob},
		{Publish(netip.Addr{}, Port{First: 90, Last: 80, Protocol: "tcp"}), FromJob}}
	p := mustParse(t, `permit {
  addresses = ["0.0.0.0/0", "::/0"]
  publish   = ["*:1-65535"]
}`)
	for _, r := range p.Decide(Subject{}, odd, nil).Results {
		if r.Allowed {
			t.Errorf("what is none is permitted: %s", r.Request)
		}
	}
	p = mustParse(t, `deny {
  addresses = ["192.0.2.1"]
  publish   = ["192.0.2.1:22"]
}`)
	for _, r := range p.Decide(Subject{}, append(odd[:1], odd[2]), nil).Results {
		if !r.Denied {
			t.Errorf("what is none is not denied: %s", r.Request)
		}
	}
}

func TestMistakesOfNetworks(t *testing.T) {
	for src, want := range map[string]string{
		`permit { network = ["x"] }`:                     "addresses, ",
		`permit { networks = ["["] }`:                    "syntax error in pattern",
		`permit { addresses = ["192.0.2.7/24"] }`:        "write 192.0.2.0/24",
		`permit { addresses = ["192.0.2.9-192.0.2.7"] }`: "the range is empty",
		`permit { addresses = ["192.0.2.9-::1"] }`:       "the range is empty",
		`permit { addresses = ["::ffff:192.0.2.1"] }`:    "write 192.0.2.1",
		`permit { addresses = ["::ffff:0:0/96"] }`:       "IPv4",
		`permit { addresses = ["db"] }`:                  "not a valid IP address",
		`permit { addresses = ["192.0.2.0/33"] }`:        "not a valid prefix",
		`permit { publish = ["80"] }`:                    "write *:80",
		`permit { publish = ["::1:80"] }`:                "want [ ] around",
		`permit { publish = ["web:80"] }`:                "ADDRESS:PORT",
		`permit { publish = ["*:80/sctp"] }`:             "must be tcp or udp",
		`test "x" {
  allowed { publish = ["80"] }
}`: "write *:80",
	} {
		if _, err := Parse("/etc/host.hcl", []byte(src), devfsRules); err == nil ||
			!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "host.hcl:") {
			t.Errorf("%s: got %v, want an error with %q", src, err, want)
		}
	}
}

// All ports are written as a range, which is said to who writes a star.
func TestStarIsNoPort(t *testing.T) {
	for text, want := range map[string]string{`publish = ["*"]`: "write *:1-65535", `publish = ["*:*"]`: "write *:1-65535",
		`publish = ["192.0.2.1:*"]`: "write 192.0.2.1:1-65535", `ports = ["*"]`: "write 1-65535"} {
		_, err := Parse("host.hcl", []byte("permit {\n  "+text+"\n}\n"), devfsRules)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "host.hcl:2") {
			t.Errorf("%s: %v", text, err)
		}
		_, what, _ := strings.Cut(want, " ")
		mustParse(t, "permit {\n  "+strings.Split(text, "=")[0]+"= [\""+what+"\"]\n}\n")
	}
}
