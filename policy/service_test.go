package policy

import (
	"strings"
	"testing"
)

// Own is what the image's repository or the job is called, where an operator has
// said whose.
func TestOwnService(t *testing.T) {
	s := Subject{Image: "ghcr.io/acme/vault:1", Repository: "ghcr.io/acme/vault", Digest: digestA,
		Signers: []string{"release"}, Namespace: "prod", Job: "Shop"}
	for narrow, want := range map[string]string{
		`images = ["ghcr.io/acme/*"]`: "vault", `signer = ["release"]`: "vault", `namespaces = ["prod"]`: "shop",
		`jobs = ["Sh*"]`: "shop",
		`images = ["ghcr.io/acme/*"]` + "\n" + `jobs = ["*"]`: "vault shop", `images = ["evil.example/*"]`: "",
		`signer = ["ops"]`: "", `namespaces = ["test"]`: "",
	} {
		p := mustParse(t, "permit {\n"+narrow+"\nservices = [\"own:v1\"]\n}")
		for _, name := range []string{"vault", "VAULT", "shop", "ghcr.io", "acme", "vaults", "", "own", "prod"} {
			for _, tags := range [][]string{nil, {"v1"}} {
				d := p.Decide(s, []Request{service(name, tags, FromImage)}, nil)
				if is := strings.Contains(" "+want+" ", " "+strings.ToLower(name)+" ") && name != ""; d.Allowed != is {
					t.Errorf("%s: %q is allowed: %v", narrow, name, d.Allowed)
				}
			}
		}
		if d := p.Decide(s, []Request{service("vault", []string{"v1", "active"}, FromImage)}, nil); d.Allowed {
			t.Errorf("%s: a tag that no permit names", narrow)
		}
	}
	if d := mustParse(t, `permit {
 images = ["*"]
 services = ["own"]
}`).Decide(Subject{Job: "", Repository: ""}, []Request{service("", nil, FromImage)}, nil); d.Allowed {
		t.Error("nobody's own is nothing")
	}
	for text, want := range map[string]string{
		`permit { services = ["own"] }`: "narrow the block", "set \"x\" {\n services = [\"own:*\"]\n}\npermit {\n " +
			"sets = [\"x\"]\n digests = [\"" + digestA + "\"]\n}": "narrow the block",
		"deny {\n jobs = [\"a\"]\n services = [\"own\"]\n}": "must name the service",
		`permit { services = ["web:"] }`:                    "want a name",
		`permit { services = [":a"] }`:                      "want a name",
		`permit { services = ["[" ] }`:                      "syntax error",
	} {
		if _, err := Parse("p.hcl", []byte(text), devfsRules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestTags(t *testing.T) {
	r := service("web", []string{"b", "a,b", `c\`, "b", "*"}, FromJob)
	if valueOf(r) != `*,a\,b,b,c\\` || strings.Join(r.Privilege.(Service).tags, " ") != `* a,b b c\` ||
		r.Key() != `service:web:*,a\,b,b,c\\` {
		t.Errorf("%+v, %q, %s", r, r.Privilege.(Service).tags, r.Key())
	}
	if other := service("web", []string{"a", "b"}, FromJob); other.identity() == service("web", []string{"a,b"},
		FromJob).identity() {
		t.Error("two tags are taken for one")
	}
}
