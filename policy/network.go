package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	meant "github.com/freejail/freejail/internal/near"
)

// Network asks for a network of the host, by its name.
func Network(name string) Privilege { return named{"network", "network", name} }

func init() {
	registerNamed(Network, func(name string) []string { return []string{name} })
}

// CheckNetworks finds names in the policy that no network of the host has: a mistyped one would permit nothing, or
// deny nothing. A pattern may be about networks to come.
func (p *Policy) CheckNetworks(known []string) error {
	var errs []error
	told := map[string]bool{} // of a set, once
	for _, t := range []table{p.permits, p.denies} {
		if t.of["network"] == nil {
			continue
		}
		for _, e := range t.of["network"].entries {
			r, is := e.rule.(namedRule)
			name := r.prefix
			if !is || !r.literal || slices.Contains(known, name) || told[e.where+name] {
				continue
			}
			told[e.where+name] = true
			errs = append(errs, fmt.Errorf("%s: network %q: no network of this name in the host configuration%s "+
				"(there are: %s)", e.where, name, meant.Hint(name, known), strings.Join(known, ", ")))
		}
	}
	return errors.Join(errs...)
}
