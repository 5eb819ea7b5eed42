package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/imagename"
)

func TestRequire(t *testing.T) {
	p, err := Parse("p.hcl", []byte("require {\n signer = [\"rel*\", \"ops\"]\n images = "+
		"[\"r.example/prod/*\"]\n}\npermit {\n vnet = true\n}\n"+
		"test \"t\" {\n image = \"r.example/prod/web:1\"\n signers = [\"release\"]\n allowed {\n start = true\n }\n}\n"+
		"test \"u\" {\n image = \"r.example/prod/web@"+digestA+"\"\n refused {\n start = true\n }\n}\n"), devfsRules)
	if err != nil {
		t.Fatal(err)
	}
	if n, failures := p.Test(); n != 2 || len(failures) != 0 {
		t.Errorf("%d assertions, %+v", n, failures)
	}
	in := func(image string, signers ...string) Subject {
		return Subject{Image: image, Repository: imagename.Repository(image), Digest: digestA, Signers: signers}
	}
	approval := []Approval{{Digest: digestA, Requests: []Request{req("signature", "", "rel*,ops")}, At: time.Now()}}
	for name, c := range map[string]struct {
		s         Subject
		approvals []Approval
		want      bool
	}{
		"unsigned":      {in("r.example/prod/web:1"), nil, false},
		"by a digest":   {in("r.example/prod/web@" + digestA), nil, false},
		"signed":        {in("r.example/prod/web:1", "release"), nil, true},
		"by the other":  {in("r.example/prod/web:1", "x", "ops"), nil, true},
		"by a stranger": {in("r.example/prod/web:1", "stranger"), nil, false},
		"not about it":  {in("r.example/dev/web:1"), nil, true},
		"approved":      {in("r.example/prod/web:1"), approval, true},
		"approved before": {in("r.example/prod/web:1"), []Approval{{Digest: digestB, Requests: approval[0].Requests}},
			false},
	} {
		d := p.Decide(c.s, []Request{req("vnet", "", "true")}, c.approvals)
		if d.Allowed != c.want {
			t.Errorf("%s: %+v", name, d)
		}
		if err := d.Err(c.s); (err == nil) != c.want || err != nil &&
			(!strings.Contains(err.Error(), "--request 'signature:rel*,ops'") ||
				!strings.Contains(err.Error(), "pull it again: freejail pull "+c.s.Image)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := in("web") // which no registry has
	s.Repository = "r.example/prod/web"
	if err := p.Decide(s, nil, nil).Err(s); err == nil || strings.Contains(err.Error(), "freejail pull") {
		t.Errorf("an image of no registry: %v", err)
	}
	for text, want := range map[string]string{
		"require {\n}": "signer is missing", "require {\n signer = []\n}": "empty",
		"require {\n signer = [\"a\"]\n ports = [\"1\"]\n}":       "not a setting of require",
		"require {\n signer = [\"a\"]\n from = [\"job\"]\n}":      "not allowed here",
		"require {\n signer = [\"a\"]\n sets = [\"standard\"]\n}": "not a setting of require",
	} {
		if _, err := Parse("p.hcl", []byte(text), devfsRules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
