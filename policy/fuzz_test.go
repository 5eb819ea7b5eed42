package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// gambler makes lines of policies and requests that have to do with each other.
type gambler struct{ *rand.Rand }

func (g gambler) one(list []string) string { return list[g.IntN(len(list))] }

// line is an attribute of a block; ofAll has one of each list.
func (g gambler) line(all []denials) string {
	d := all[g.IntN(len(all))]
	return fmt.Sprintf(d.attr, g.one(d.denies))
}

func (g gambler) request(all []denials) Request {
	d := all[g.IntN(len(all))]
	r := d.requests[g.IntN(len(d.requests))]
	r.Source = []Source{FromImage, FromJob}[g.IntN(2)]
	return r
}

func (g gambler) narrowing() string {
	return g.one([]string{"", "", "images = [\"acme/*\"]\n", "images = [\"other\"]\n", "from = [\"job\"]\n",
		"namespaces = [\"prod\"]\n", "signer = [\"rel*\"]\n"})
}

func flatten() (out []denials) {
	all := allDenials()
	for _, kind := range Kinds() {
		out = append(out, all[kind]...)
	}
	return out
}

// decided is what a policy says, by request. Nothing else is known of a text
// that cannot be read.
func decided(text string, s Subject, reqs []Request, approvals []Approval) ([]Result, bool) {
	p, err := Parse("host.hcl", []byte(text), devfsRules)
	if err != nil {
		return nil, false
	}
	return p.Decide(s, reqs, approvals).Results[:len(reqs)], true
}

// FuzzDecide tries policies and requests at random, and texts of nobody's making:
// what is not permitted is refused, what a deny refuses by itself is refused
// beside any permits, another deny never permits more, and another permit never
// refuses more.
func FuzzDecide(f *testing.F) {
	all := flatten()
	for i := range uint64(50) {
		f.Add(i, "", "")
	}
	f.Add(uint64(1), `permit { mounts = ["tmpfs:/tmp:size<=1GiB"] }`, `tmpfs,size=1073741824`)
	f.Add(uint64(2), `deny { services = ["*:a\\,b", "[!a-z]*:*"] }`, `a\,b,,\`)
	f.Add(uint64(3), "set \"x\" {\n jail = { \"a.*\" = \"1..3\" }\n}\ndeny {\n sets = [\"x\"]\n}",
		"99999999999999999999")
	f.Add(uint64(4), `permit { publish = ["[::]:80", "0.0.0.0:1-99/udp"] }`, `192.0.2.1:80/tcp`)
	f.Add(uint64(5), `permit { addresses = ["192.0.2.0/24", "::1-::9"] }`, `::ffff:192.0.2.1`)
	f.Add(uint64(6), `deny { networks = ["*"] }`, `none`)
	f.Fuzz(func(t *testing.T, seed uint64, more, value string) {
		if len(more) > 1<<12 || len(value) > 1<<10 {
			return
		}
		g := gambler{rand.New(rand.NewPCG(seed, 1))}
		s := Subject{Image: "acme/web:1", Repository: "acme/web", Digest: digestA, Signers: []string{"release"},
			Namespace: "prod", Job: "shop"}
		var reqs []Request
		for range 1 + g.IntN(6) {
			reqs = append(reqs, g.request(all))
		}
		reqs = append(reqs, req(Kinds()[g.IntN(len(Kinds()))], value, value, FromImage), req("mount", "/tmp/x", value))
		permits, deny := "", "deny {\n"+g.narrowing()+g.line(all)+"\n}\n"
		for range g.IntN(4) {
			permits += "permit {\n" + g.narrowing() + g.line(all) + "\n}\n"
		}
		another := "permit {\n" + g.narrowing() + g.line(all) + "\n}\n"
		if _, read := decided(more, s, nil, nil); read {
			permits += more + "\n"
		}
		approvals := []Approval{{Digest: digestA, Requests: reqs[:g.IntN(len(reqs))]}}
		check(t, s, reqs, approvals, permits, deny, another)
	})
}

func check(t *testing.T, s Subject, reqs []Request, approvals []Approval, permits, deny, another string) {
	base, ok := decided(permits, s, reqs, approvals)
	if !ok { // a line that is for a deny alone
		return
	}
	alone, readable := decided(deny, s, reqs, nil)
	with, ok2 := decided(permits+deny, s, reqs, approvals)
	wider, ok3 := decided(permits+another, s, reqs, approvals)
	nothing, _ := decided("", s, reqs, nil)
	for i, r := range reqs {
		free := r.Kind() == "user" || strings.Contains(nothing[i].Reason, "every task") &&
			(r.Kind() == "devfs" || r.Key() == "network:none")
		switch {
		case nothing[i].Allowed && !free:
			t.Errorf("nothing is permitted, and %+v is: %s", r, nothing[i].Reason)
		case readable && ok2 && alone[i].Denied && with[i].Allowed:
			t.Errorf("%s\ndenies %+v, but beside\n%s\nit is %s", deny, r, permits, with[i].Reason)
		case readable && ok2 && with[i].Allowed && !base[i].Allowed:
			t.Errorf("with\n%s\n%+v is permitted that was not by\n%s: %s", deny, r, permits, with[i].Reason)
		case ok3 && base[i].Allowed && !wider[i].Allowed:
			t.Errorf("with\n%s\n%+v is refused that was not by\n%s: %s", another, r, permits, wider[i].Reason)
		case base[i].Allowed == (base[i].Permit != "") && !base[i].Denied:
			t.Errorf("%+v: %+v", r, base[i])
		}
	}
}
