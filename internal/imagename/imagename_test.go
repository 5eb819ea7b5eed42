package imagename

import (
	"slices"
	"testing"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"registry.example/web:1":             "registry.example/web:1",
		"Registry.Example/web:1":             "registry.example/web:1",
		"registry.example:443/web:1":         "registry.example/web:1",
		"REGISTRY.example:443/team/**":       "registry.example/team/**",
		"registry.example:4430/web":          "registry.example:4430/web",
		"localhost:443/web":                  "localhost/web",
		"registry-1.docker.io/library/web":   "docker.io/library/web",
		"index.docker.io:443/library/web":    "docker.io/library/web",
		"Web":                                "Web",
		"Team/Web:443":                       "Team/Web:443",
		"file/srv/Web.tar":                   "file/srv/Web.tar",
		"registry.example:443/web@sha256:00": "registry.example/web@sha256:00",
	} {
		if got := Canonical(name); got != want || Canonical(got) != got {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string][]string{
		"registry.example:443/web":  {"registry.example/web", "registry.example:80/web", "registry.example:443/web"},
		"registry.example:80/web":   {"registry.example:80/web", "registry.example/web", "registry.example:443/web"},
		"registry.example:5000/web": {"registry.example:5000/web"},
		"web":                       {"web"},
	} {
		if got := Aliases(name); !slices.Equal(got, want) {
			t.Errorf("%s may be %v, want %v", name, got, want)
		}
	}
	if !Same("registry.example:443/web", "Registry.example/web:latest") ||
		Same("registry.example/web:1", "registry.example/web") || Same("Web", "web") {
		t.Error("names are taken for each other, or are not")
	}
}
