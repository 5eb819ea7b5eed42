package policy

import (
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/imagename"
)

// A deny and a require are about an image by whichever name of its registry; a
// permit by the one that it has.
func TestNamesOfARegistry(t *testing.T) {
	subject := func(image string) Subject {
		return Subject{Image: image, Repository: imagename.Repository(image), Digest: digestA}
	}
	const same = "registry.example/web:1 registry.example:443/web:1 Registry.Example/web:1"
	for name, c := range map[string]struct{ src, denied, allowed string }{
		"deny": {
			`permit { allow = ["raw_sockets"] } deny { images = ["registry.example/**"], allow = ["raw_sockets"] }`,
			same + " registry.example:80/web:1", "registry.example:5000/web:1 other.example/web:1"},
		"deny with 443": {
			`permit { allow = ["raw_sockets"] } deny { images = ["registry.example:443/web"], allow = ["raw_sockets"] }`, same, "registry.example/other"},
		"deny with 80": {
			`permit { allow = ["raw_sockets"] } deny { images = ["registry.example:80/web"], allow = ["raw_sockets"] }`,
			same, "registry.example/other"},
		"deny any port": {
			`permit { allow = ["raw_sockets"] } deny { images = ["registry.example:*/web"], allow = ["raw_sockets"] }`,
			same + " registry.example:5000/web:1", "registry.example/other"},
		"deny, upper": {
			`permit { allow = ["raw_sockets"] } deny { images = ["REGISTRY.example/web:*"], allow = ["raw_sockets"] }`,
			same, "registry.example/other"},
		"require": {
			`permit { allow = ["raw_sockets"] } require { images = ["registry.example/**"], signer = ["x"] }`, same +
				" registry.example:80/web:1", "registry.example:5000/web:1"},
		"require with 443": {
			`permit { allow = ["raw_sockets"] } require { images = ["registry.example:443/**"], signer = ["x"] }`, same,
			"other.example/web"},
		"permit": {`permit { images = ["registry.example/**"], allow = ["raw_sockets"] }`,
			"registry.example:80/web:1 registry.example:5000/web:1", same},
		"permit with 443": {`permit { images = ["registry.example:443/web"], allow = ["raw_sockets"] }`,
			"registry.example:80/web:1 registry.example/other", same},
	} {
		src := strings.ReplaceAll(strings.ReplaceAll(c.src, ", allow", "\n allow"), ", signer", "\n signer")
		src = strings.ReplaceAll(strings.ReplaceAll(src, "} ", "}\n"), "{ ", "{\n")
		src = strings.ReplaceAll(src, " }", "\n}")
		p := mustParse(t, src)
		for images, want := range map[string]bool{c.denied: false, c.allowed: true} {
			for _, image := range strings.Fields(images) {
				d := p.Decide(subject(image), []Request{req("allow", "allow.raw_sockets", "true")}, nil)
				if d.Allowed != want {
					t.Errorf("%s: %s is allowed: %v", name, image, d.Allowed)
				}
			}
		}
	}
}
