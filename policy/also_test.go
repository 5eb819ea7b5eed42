package policy

import "testing"

// Other names of the same content make what is denied and required more, and
// what is permitted no more.
func TestOtherNamesOnlyRestrict(t *testing.T) {
	asked := []Request{req("allow", "allow.raw_sockets", "true", FromImage)}
	for text, want := range map[string][2]bool{ // without and with the other name
		`permit { allow = ["raw_sockets"] }
deny {
  images = ["prod/**"]
  allow  = ["raw_sockets"]
}`: {true, false},
		`permit { allow = ["raw_sockets"] }
deny {
  images = ["registry.example/team/web"]
  allow  = ["raw_sockets"]
}`: {true, false},
		`permit { allow = ["raw_sockets"] }
require {
  images  = ["prod/web"]
  signer  = ["release"]
}`: {true, false},
		`permit {
  images = ["prod/**"]
  allow  = ["raw_sockets"]
}`: {false, false},
	} {
		p := mustParse(t, text)
		for i, also := range [][]string{nil, {"prod/web:1", "registry.example:443/team/web:2"}} {
			s := Subject{Image: "file/srv/web.tar", Repository: "file/srv/web.tar", Digest: digestA, Also: also}
			if d := p.Decide(s, asked, nil); d.Allowed != want[i] {
				t.Errorf("%s\nalso %v: %v", text, also, d.Results)
			}
		}
	}
}
