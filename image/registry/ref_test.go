package registry

import (
	"strings"
	"testing"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseReference(t *testing.T) {
	for text, want := range map[string]Reference{
		"registry.example/web":                          {"registry.example", "web", "latest", ""},
		"registry.example:5000/a/b.c/d__e:1.0-x":        {"registry.example:5000", "a/b.c/d__e", "1.0-x", ""},
		"localhost/web@" + someDigest:                   {"localhost", "web", "", someDigest},
		"127.0.0.1:5000/web:1@" + someDigest:            {"127.0.0.1:5000", "web", "1", someDigest},
		"xn--bcher-kva.example/web:" + rep("t", 128):    {"xn--bcher-kva.example", "web", rep("t", 128), ""},
		"r.example/sha256:abc":                          {"r.example", "sha256", "abc", ""},
		"r.example/web:sha256-" + someDigest[7:] + ".x": {"r.example", "web", "sha256-" + someDigest[7:] + ".x", ""},
	} {
		got, err := ParseReference(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		if again, err := ParseReference(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s it is %+v, %v", text, got, again, err)
		}
	}
}

func rep(s string, n int) string { return strings.Repeat(s, n) }

func TestBadReferences(t *testing.T) {
	for text, want := range map[string]string{
		"":                                          "no registry host",
		"web":                                       "no registry host",
		"web:1":                                     "no registry host",
		"library/web":                               "no registry host",
		"/web":                                      "no registry host",
		"registry.example":                          "no registry host",
		"registry.example/":                         "not a valid repository name",
		"registry.example/web:":                     "not a valid tag",
		"registry.example/web:-x":                   "not a valid tag",
		"registry.example/web:a b":                  "not a valid tag",
		"registry.example/web:" + rep("t", 129):     "not a valid tag",
		"registry.example/Web":                      "not a valid repository name",
		"registry.example/web/":                     "not a valid repository name",
		"registry.example//web":                     "not a valid repository name",
		"registry.example/../web":                   "not a valid repository name",
		"registry.example/a/./web":                  "not a valid repository name",
		"registry.example/a%2f..":                   "not a valid repository name",
		"registry.example/web\x00":                  "not a valid repository name",
		"registry.example/web?x=1":                  "not a valid repository name",
		"registry.example/web#x":                    "not a valid repository name",
		"registry.example/wéb":                      "not a valid repository name",
		"Registry.example/web":                      "lower case",
		"registry.example./web":                     "not a valid host name",
		"-registry.example/web":                     "not a valid host name",
		"user:pw@registry.example/web":              "not allowed in a reference",
		"registry.example:0/web":                    "not a valid port",
		"registry.example:65536/web":                "not a valid port",
		"registry.example:050/web":                  "not a valid port",
		"registry.example:/web":                     "not a valid port",
		"https://registry.example/web":              "not a valid port",
		"[::1]:5000/web":                            "not a valid host name",
		"registry.example/web@":                     "what follows @",
		"registry.example/web@sha256:abc":           "what follows @",
		"registry.example/web@md5:" + rep("a", 32):  "what follows @",
		"registry.example/web@" + someDigest + "@x": "what follows @",
		"registry.example/web@" + strings.ToUpper(someDigest): "what follows @",
		"registry.example/" + rep("a", 300):                   "longer than",
	} {
		if got, err := ParseReference(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v; want %q", text, got, err, want)
		}
	}
}

// Whatever is taken means the same when it is written and read again, and can
// neither leave a URL's path nor a directory.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"registry.example/web:1", "localhost:5000/a/b@" + someDigest, "web", "a.b/../c",
		"a.b/c:d@" + someDigest,
		"A.b/c", "a.b:99999/c", "user@host/x", "[::1]/x", "a.b/c//d", "a.b/c\n", "a..b/c", "a.b/c:" + rep("x", 129),
		"oci:dir", "a:1/b:2/c:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if len(err.Error()) > 4000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			return
		}
		for _, text := range []string{r.String(), r.Name()} {
			again, err := ParseReference(text)
			if err != nil || again.Identity() != r.Identity() || again.version() != r.version() {
				t.Errorf("%q is %+v, but %q is %+v, %v", s, r, text, again, err)
			}
		}
		if whole := r.String(); strings.Contains(r.Identity(), "..") || strings.Contains(whole, "//") ||
			strings.ContainsAny(whole, " \t\r\n\x00%?#\\") {
			t.Errorf("%q is taken as %q", s, whole)
		}
	})
}

// One registry has one name, so that what a policy or a signature says of it
// holds by whichever it was asked for.
func TestHostsHaveOneName(t *testing.T) {
	for text, want := range map[string]string{
		"registry.example:443/web:1":             "registry.example/web:1",
		"registry.example:80/web:1":              "registry.example:80/web:1",
		"plain.example:80/web:1":                 "plain.example/web:1",
		"plain.example:443/web:1":                "plain.example/web:1",
		"registry-1.docker.io/library/web":       "docker.io/library/web:latest",
		"registry.example:443/web@" + someDigest: "registry.example/web@" + someDigest,
	} {
		c, err := NewClient(Config{Hosts: []Host{{Name: "plain.example", PlainHTTP: true},
			{Name: "registry.example:80", PlainHTTP: true}}})
		check(t, err)
		if got := c.Canonical(ref(t, text)).Name(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for _, hosts := range [][]Host{
		{{Name: "a.example"}, {Name: "a.example:443"}},
		{{Name: "a.example", PlainHTTP: true}, {Name: "a.example:80", PlainHTTP: true}},
		{{Name: "a.example:443", PlainHTTP: true}},
		{{Name: "docker.io"}, {Name: "registry-1.docker.io"}},
	} {
		if _, err := NewClient(Config{Hosts: hosts}); err == nil {
			t.Errorf("%v is taken", hosts)
		}
	}
}
