package policy

import (
	"strings"
	"testing"
	"time"
)

func fleets(approver string, keys ...string) []Approval {
	a := Approval{ID: "x", Digest: digestA, By: "alice", Why: "seen", Approver: approver, At: time.Now(),
		Expires: time.Now().Add(time.Hour)}
	for _, key := range keys {
		p, err := ParseKey(key)
		if err != nil {
			panic(err)
		}
		a.Requests = append(a.Requests, Request{Privilege: p})
	}
	return []Approval{a}
}

// A test beside the policy asserts what an approver's word would do.
func TestAssertionsAboutApprovers(t *testing.T) {
	const file = `
approver "security" {
  may {
    images = ["acme/*"]
    allow  = ["raw_sockets", "chflags"]
  }
}
deny { allow = ["chflags"] }
permit { allow = ["mlock"] }
test "acme" {
  approver = "security"
  image    = "acme/web:1"
  allowed { allow = ["raw_sockets", "mlock"] }
  refused { allow = ["mount", "chflags"] }
}
test "without" {
  image = "acme/web:1"
  refused { allow = ["raw_sockets"] }
}
test "another image" {
  approver = "security"
  image    = "other/web:1"
  refused { allow = ["raw_sockets"] }
}
`
	if n, failed := mustParse(t, file).Test(); n != 6 || len(failed) != 0 {
		t.Errorf("%d assertions, failed: %+v", n, failed)
	}
	wrong := strings.Replace(file, `refused { allow = ["mount", "chflags"] }`, `allowed { allow = ["mount"] }`, 1)
	_, failed := mustParse(t, wrong).Test()
	if len(failed) != 1 || !strings.Contains(failed[0].Message, "more than this approver may give") {
		t.Errorf("failed: %+v", failed)
	}
	_, err := Parse("host.hcl", []byte(strings.Replace(file, `approver = "security"`, `approver = "nobody"`, 1)), devfsRules)
	if err == nil || !strings.Contains(err.Error(), `test "acme": there is no approver "nobody"`) {
		t.Error(err)
	}
}

// What an approver has signed is worth what the host lets the approver give.
func TestApproversMayGiveWhatTheyMay(t *testing.T) {
	const file = `
set "small" { mounts = ["tmpfs:/s:size<=1MiB"] }
approver "kinds" { kinds = ["allow"] }
approver "blocks" {
  may {
    images = ["acme/*"]
    allow  = ["raw_sockets"]
    sets   = ["small"]
  }
  may {
    signer = ["release"]
    allow  = ["mount"]
  }
}
deny { allow = ["chflags"] }
require {
  signer = ["release"]
  images = ["prod/*"]
}
`
	p := mustParse(t, file)
	acme := Subject{Image: "acme/web:1", Repository: "acme/web", Digest: digestA}
	other := Subject{Image: "other/web:1", Repository: "other/web", Digest: digestA}
	signed, prod := acme, Subject{Image: "prod/web:1", Repository: "prod/web", Digest: digestA}
	signed.Signers = []string{"release"}
	elsewhere := acme
	elsewhere.Digest = digestB
	for name, c := range map[string]struct {
		s       Subject
		by, ask string
		want    string // empty is allowed
	}{
		"a kind":             {other, "kinds", "allow:raw_sockets", ""},
		"another kind":       {other, "kinds", "sysvipc:shm=new", "more than this approver may give (host.hcl:3)"},
		"a block":            {acme, "blocks", "allow:raw_sockets", ""},
		"another image":      {other, "blocks", "allow:raw_sockets", "more than this approver may give (host.hcl:4)"},
		"another permission": {acme, "blocks", "allow:mount", "more than this approver may give"},
		"of a signer":        {signed, "blocks", "allow:mount", ""},
		"of a set":           {acme, "blocks", "mount:tmpfs,size=1048576 on /s", ""},
		"too much":           {acme, "blocks", "mount:tmpfs,size=2097152 on /s", "more than this approver may give"},
		"a deny":             {acme, "kinds", "allow:chflags", "denied at host.hcl"},
		"nobody":             {acme, "gone", "allow:raw_sockets", "no such approver"},
		"another digest":     {elsewhere, "kinds", "allow:raw_sockets", "no permit covers it"},
		"what is required":   {prod, "kinds", "signature:release", "required at host.hcl"},
	} {
		p, ask := p, fleets(c.by, c.ask)
		asked := []Request{{Privilege: ask[0].Requests[0].Privilege, Source: FromImage}}
		if c.s.Image == prod.Image {
			asked = nil
		}
		d := p.Decide(c.s, asked, ask)
		res := d.Results[0]
		if res.Allowed != (c.want == "") || !strings.Contains(res.Reason, c.want) {
			t.Errorf("%s: got %v, %s; want %q", name, res.Allowed, res.Reason, c.want)
		}
		if res.Allowed && (res.Approval == nil || !strings.Contains(res.Reason, "approved by alice, signed by "+c.by)) {
			t.Errorf("%s: got %+v", name, res)
		}
	}
	// The bound of a block is for all that one task gets by it.
	twice := fleets("blocks", "mount:tmpfs,size=1048576 on /s", "mount:tmpfs,size=1048576 on /s/t")
	var both []Request
	for _, r := range twice[0].Requests {
		both = append(both, Request{r.Privilege, FromImage})
	}
	if d := p.Decide(acme, both, twice); d.Allowed {
		t.Errorf("got %+v", d)
	}
	// An approval of the host itself has no such bounds.
	own := fleets("", "allow:mount")
	if d := p.Decide(other, []Request{{own[0].Requests[0].Privilege, FromJob}}, own); !d.Allowed {
		t.Errorf("got %+v", d)
	}
}

func TestMistakesOfApprovers(t *testing.T) {
	for text, want := range map[string]string{
		`approver "a" {}`:                                                            `host.hcl:1: approver "a" may give nothing`,
		`approver "a" { kinds = ["alow"] }`:                                          `"alow" is not a kind of request`,
		`approver "a" { kinds = ["signature"] }`:                                     `"signature" is not a kind of request that can be given`,
		"approver \"a\" {\n may {\n  alow = [\"x\"]\n }\n}":                          "not a setting of may",
		"approver \"a\" { kinds = [\"nfs\"] }\napprover \"a\" { kinds = [\"nfs\"] }": `approver "a" already exists, at host.hcl:1`,
		"approver \"a\" {\n may {\n  sets = [\"x\"]\n }\n}":                          `no such set "x"`,
	} {
		if _, err := Parse("host.hcl", []byte(text), devfsRules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	p := mustParse(t, "approver \"a\" {\n may {\n  signer = [\"relese\"]\n  nfs = true\n }\n}")
	if err := p.CheckSigners([]string{"release"}); err == nil || !strings.Contains(err.Error(), `signer "relese"`) {
		t.Errorf("got %v", err)
	}
}

// A refusal names those approvers who may give all that is refused, and how; of an image that no registry has none.
func TestRefusalsNameApprovers(t *testing.T) {
	p := mustParse(t, `
approver "ops" { kinds = ["allow"] }
approver "security" { kinds = ["allow", "sysvipc"] }
deny { allow = ["chflags"] }
`)
	web := Subject{Image: "registry.example/web:1", Repository: "registry.example/web", Digest: digestA}
	local := Subject{Image: "web", Repository: "web", Digest: digestA}
	for name, c := range map[string]struct {
		s    Subject
		asks []string
		want string
	}{
		"both":          {web, []string{"allow:raw_sockets"}, "Each of the approvers ops, security"},
		"one":           {web, []string{"allow:raw_sockets", "sysvipc:shm=new"}, "Approver security can"},
		"none":          {web, []string{"allow:raw_sockets", "port:80/tcp"}, ""},
		"denied beside": {web, []string{"sysvipc:shm=new", "allow:chflags"}, "Approver security can"},
		"denied alone":  {web, []string{"allow:chflags"}, ""},
		"no registry":   {local, []string{"allow:raw_sockets"}, ""},
	} {
		var reqs []Request
		for _, key := range c.asks {
			what, err := ParseKey(key)
			if err != nil {
				t.Fatal(err)
			}
			reqs = append(reqs, Request{Privilege: what})
		}
		text := p.Decide(c.s, reqs, nil).Err(c.s).Error()
		if c.want == "" && strings.Contains(text, "--sign") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %s", name, text)
		}
		if c.want != "" && !strings.Contains(text, "freejail policy approve registry.example/web@"+digestA+
			` --sign KEY --expires 90d --reason "..." --request `) {
			t.Errorf("%s: no command in %s", name, text)
		}
	}
}
