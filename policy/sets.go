package policy

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed builtin.hcl
var builtin []byte

// Set is a named set that comes with freejail.
type Set struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Text        string `json:"text"` // as it would stand in a host's file
}

var setBlock = regexp.MustCompile(`(?ms)^set "([a-z-]+)" \{\n(.*?)^\}\n`)

// Sets are the built-in sets.
func Sets() []Set {
	var out []Set
	for _, m := range setBlock.FindAllStringSubmatch(string(builtin), -1) {
		s := Set{Name: m[1], Text: m[0]}
		for _, line := range strings.Split(m[2], "\n") {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if strings.TrimSpace(name) == "description" {
				s.Description = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		out = append(out, s)
	}
	return out
}

// FindSet returns a built-in set by its name.
func FindSet(name string) (Set, error) {
	var names []string
	for _, s := range Sets() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Set{}, fmt.Errorf("no such built-in set %q: there are %s", name, strings.Join(names, ", "))
}
