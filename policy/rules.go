package policy

import (
	"fmt"
	"slices"
	"strings"
)

// What several kinds have in common: a flag, a name, a name with a value.

// flag is the only privilege of its kind: KIND = true in a block.
type flag struct {
	kind        Kind
	value, text string
}

func (f flag) Kind() Kind     { return f.kind }
func (f flag) String() string { return f.text }
func (f flag) Key() string {
	return strings.TrimSuffix(string(f.kind)+":"+f.value, ":true")
}
func (f flag) form() (string, string) { return "", f.value }
func (f flag) permit() string         { return string(f.kind) + " = true" }

type flagRule struct{}

func (flagRule) covers(Privilege, *Subject) bool { return true }
func (flagRule) touches(Privilege) bool          { return true }

func registerFlag(f flag) Privilege {
	register(kind{name: f.kind, attribute: string(f.kind), read: readTruth, bare: f.value == "true",
		parse: func(_, value string) (Privilege, error) {
			if value != f.value {
				return nil, fmt.Errorf("want %s", f.Key())
			}
			return f, nil
		},
		asserted: func(item) (Privilege, error) { return f, nil },
		rule:     func(item) (rule, error) { return flagRule{}, nil }})
	return f
}

// named is a privilege that a name says all of.
type named struct {
	kind        Kind
	noun, value string
}

func (n named) Kind() Kind             { return n.kind }
func (n named) String() string         { return n.noun + " " + n.value }
func (n named) Key() string            { return string(n.kind) + ":" + n.value }
func (n named) form() (string, string) { return "", n.value }
func (n named) permit() string {
	return fmt.Sprintf("%ss = [%s]", n.kind, quoteHCL(escapeGlob(n.value)))
}

// namedRule is a glob of names. A deny is about all the names of a thing.
type namedRule struct {
	pattern
	names func(string) []string
}

func (r namedRule) covers(p Privilege, _ *Subject) bool { return r.match(p.(named).value) }
func (r namedRule) touches(p Privilege) bool {
	return slices.ContainsFunc(r.names(p.(named).value), r.anywhere)
}

// registerNamed registers a kind by what makes its privileges, and tells all names of what is
// asked for by one.
func registerNamed(of func(string) Privilege, names func(string) []string) {
	name := of("").Kind()
	register(kind{name: name, attribute: string(name) + "s", read: readList,
		parse: func(_, value string) (Privilege, error) { return of(value), nil },
		rule: func(i item) (rule, error) {
			p, err := newPattern(i.value)
			return namedRule{p, names}, err
		}})
}

// setting is a privilege that has a name and a value.
type setting struct {
	kind              Kind
	noun, name, value string
}

func (s setting) Kind() Kind             { return s.kind }
func (s setting) String() string         { return fmt.Sprintf("%s %s=%s", s.noun, s.name, s.value) }
func (s setting) Key() string            { return fmt.Sprintf("%s:%s=%s", s.kind, s.name, s.value) }
func (s setting) form() (string, string) { return s.name, s.value }
func (s setting) nearKey() string        { return s.name }
func (s setting) wideKeys() []string     { return withPositive(s.name) }
func (s setting) permit() string {
	return fmt.Sprintf("%s = { %s = %s }", s.kind, quoteHCL(s.name), quoteHCL(escapeGlob(s.value)))
}

// settingRule is globs of names, and of values or a bound on them.
type settingRule struct{ name, value pattern }

func newSettingRule(i item) (r settingRule, err error) {
	if r.name, err = newPattern(i.key); err == nil {
		r.value, err = newValue(i.value)
	}
	return r, err
}

func (r settingRule) prefix() string { return r.name.prefix }

func (r settingRule) covers(p Privilege, _ *Subject) bool {
	s := p.(setting)
	return r.name.match(s.name) && r.value.all(s.value)
}

// outside tells whether a value is below or above the rule's bound, if it has one
// for the name.
func (r settingRule) outside(s setting) (under, over bool) {
	low, high := r.value.low, r.value.high
	n, ok := number(s.value)
	if !ok || !r.name.match(s.name) {
		return false, false
	}
	return low != nil && n < *low, high != nil && n > *high
}
