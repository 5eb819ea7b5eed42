package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Kind is the name of a sort of privileges, in keys, approvals and metrics.
type Kind string

// Privilege is what is asked for, of some kind. Each kind has a type of its own.
type Privilege interface {
	Kind() Kind
	// String says what it is, for people.
	String() string
	// Key names it in an approval: the kind, a colon, and what is asked for.
	Key() string
	// form is how approvals and the log keep it; parse of its kind reads that.
	form() (name, value string)
	// permit is the line of a permit block that covers just this; empty where no permit can.
	permit() string
}

// rule is what one item of a permit or of a deny is about. It is compared with privileges of
// its own kind alone.
type rule interface {
	// covers reports whether a permit of this contains all of the privilege.
	covers(p Privilege, s *Subject) bool
	// touches reports whether a deny of this is about some of the privilege. A deny is about a
	// thing in all its forms: modes, flags and values do not narrow it. Where it cannot be told,
	// it is about it.
	touches(p Privilege) bool
}

// including is a privilege that is one of another kind too: denies of that are about it, permits not.
type including interface{ includes() Privilege }

// A rule may have these too.
type (
	// permitOnly refuses what would deny less than it seems to, or nothing.
	permitOnly interface{ deniable() error }
	// bound is a rule that depends on the block that it stands in.
	bound interface {
		in(b *block) (rule, error)
	}
	// summed limits the sum of all that it covers for one task. It is asked for each request that
	// it covers, and then about the sum.
	summed interface {
		limited() bool
		add(sum int64, p Privilege) int64
		within(sum int64) error
	}
)

// kind is how the privileges of a kind are read, wherever they are written.
type kind struct {
	name Kind
	// attribute is the kind's in permit, deny, set and test blocks, read by readList, readPairs or readTruth.
	attribute string
	read      func(*hcl.Attribute) ([]item, error)
	// rule reads an item of a permit or a deny; nil where there are none.
	rule func(item) (rule, error)
	// asserted reads an item of a test; nil is parse of the item.
	asserted func(item) (Privilege, error)
	// parse reads what form gives.
	parse func(name, value string) (Privilege, error)
	// parseKey reads a key from its colon on; nil is parse of that as the value, or with pair as name=value.
	// With bare the key has no colon, and the value is true.
	parseKey   func(what string) (Privilege, error)
	pair, bare bool
	// index prepares rules for many comparisons; nil compares one by one.
	index func([]entry, Devices) (index, error)
}

var kinds = map[Kind]*kind{}

// register adds a kind, before anything is read. It panics if there is one already.
func register(k kind) {
	if kinds[k.name] != nil || k.attribute != "" && byAttribute(k.attribute) != nil {
		panic("policy: the kind " + string(k.name) + " is registered twice")
	}
	if k.asserted == nil {
		k.asserted = k.parseItem
	}
	if k.parseKey == nil {
		k.parseKey = k.parseWhat
	}
	if k.index == nil {
		k.index = oneByOne(all)
	}
	kinds[k.name] = &k
}

func (k *kind) parseItem(i item) (Privilege, error) {
	if i.key != "" {
		return k.parse(i.key, i.value)
	}
	return k.parseKey(i.value)
}

func (k *kind) parseWhat(what string) (Privilege, error) {
	name, value, ok := "", what, true
	if k.pair {
		name, value, ok = strings.Cut(what, "=")
	}
	if !ok {
		return nil, fmt.Errorf("want %s:name=value", k.name)
	}
	return k.parse(name, value)
}

// Kinds are the names of all kinds, sorted.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kinds)) }

func byAttribute(name string) *kind {
	for _, k := range kinds {
		if k.attribute == name {
			return k
		}
	}
	return nil
}

// attributes are those that blocks have, besides what narrows them.
func attributes() []string {
	var out []string
	for _, k := range kinds {
		if k.rule != nil {
			out = append(out, k.attribute)
		}
	}
	slices.Sort(out)
	return out
}

// ParseKey reads what Key gives.
func ParseKey(s string) (Privilege, error) {
	name, what, colon := strings.Cut(s, ":")
	k := kinds[Kind(name)]
	if k != nil && k.bare && !colon {
		return k.parse("", "true")
	}
	if what == "" {
		return nil, fmt.Errorf("request %q: want kind:what, as `freejail policy check` shows it", s)
	}
	if k == nil || k.bare {
		return nil, fmt.Errorf("request %q: want one of the kinds %v before the colon", s, Kinds())
	}
	p, err := k.parseKey(what)
	if err != nil {
		return nil, fmt.Errorf("request %q: %w", s, err)
	}
	return p, nil
}

// unread is what an approval keeps that cannot be read, such as what a later version wrote. No
// permit covers it, and every deny of its kind touches it.
type unread struct {
	kind        Kind
	name, value string
}

func (u unread) Kind() Kind             { return u.kind }
func (u unread) String() string         { return u.Key() }
func (u unread) Key() string            { return fmt.Sprintf("%s:%s=%s", u.kind, u.name, u.value) }
func (u unread) form() (string, string) { return u.name, u.value }
func (u unread) permit() string         { return "" }

// fromForm reads what an approval keeps.
func fromForm(name Kind, n, value string) Privilege {
	if k := kinds[name]; k != nil {
		if p, err := k.parse(n, value); err == nil {
			return p
		}
	}
	return unread{name, n, value}
}
