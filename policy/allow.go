package policy

import (
	"fmt"
	"strings"
)

// Allow asks for a permission of a jail, by its name in jail(8) with or without
// the allow. that all begin with.
func Allow(name string) Privilege { return permission("allow." + strings.TrimPrefix(name, "allow.")) }

// permission is one by its whole name.
type permission string

func init() {
	register(kind{name: "allow", attribute: "allow", read: readList, index: oneByOne(byPrefix),
		rule: func(i item) (rule, error) {
			p, err := newPattern(Allow(i.value).String())
			return allowRule{p}, err
		},
		parse: func(name, value string) (Privilege, error) {
			if value != "true" {
				return nil, fmt.Errorf("%q: want true", value)
			}
			return Allow(name), nil
		},
		parseKey: func(what string) (Privilege, error) { return Allow(what), nil }})
}

func (permission) Kind() Kind               { return "allow" }
func (p permission) String() string         { return string(p) }
func (p permission) short() string          { return strings.TrimPrefix(string(p), "allow.") }
func (p permission) Key() string            { return "allow:" + p.short() }
func (p permission) form() (string, string) { return string(p), "true" }
func (p permission) permit() string         { return "allow = [" + quoteHCL(p.short()) + "]" }
func (p permission) nearKey() string        { return string(p) }
func (p permission) wideKeys() []string     { return withPositive(string(p)) }

// allowRule is a glob of permissions.
type allowRule struct{ pattern }

func (r allowRule) prefix() string                      { return r.pattern.prefix }
func (r allowRule) covers(p Privilege, _ *Subject) bool { return r.match(p.String()) }
func (r allowRule) touches(p Privilege) bool {
	return r.near(p.String()) || r.near(positive(p.String()))
}
