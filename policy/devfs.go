package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Devfs asks for a rule of devfs(8). Its text is canonical: equal rules have equal
// texts.
type Devfs struct{ Rule fmt.Stringer }

// Devices compares rules of devfs(8) for the policy, which does not know them.
type Devices interface {
	index(of []entry) (index, error)
}

// Comparer finds rules of a list that bear on a requested one, by their places in the list.
type Comparer[R any] interface {
	// Covering returns the rules that contain the request, alone or together.
	Covering(requested R, use func(int) bool) ([]int, error)
	// Touching returns a rule that opens some of what the request opens, or -1.
	Touching(requested R, use func(int) bool) (int, error)
}

// DevicesBy has the policy compare rules of the type R, which are read and compared by the
// package that knows them.
func DevicesBy[R any, C Comparer[R]](read func(text string) (R, error), compare func([]R) (C, error)) Devices {
	return devices[R, C]{read: read, compare: compare}
}

func init() {
	parse := func(_, value string) (Privilege, error) { return Devfs{ruleText(value)}, nil }
	register(kind{name: "devfs", attribute: "devfs", read: readList, parse: parse,
		rule:  func(i item) (rule, error) { return devfsRule(i.value), nil },
		index: func(of []entry, d Devices) (index, error) { return d.index(of) }})
}

// ruleText is a rule of which only the text is known.
type ruleText string

func (t ruleText) String() string { return string(t) }

// Kind implements Privilege.
func (Devfs) Kind() Kind               { return "devfs" }
func (d Devfs) String() string         { return "devfs rule " + d.Rule.String() }
func (d Devfs) Key() string            { return "devfs:" + d.Rule.String() }
func (d Devfs) form() (string, string) { return d.Rule.String(), d.Rule.String() }
func (d Devfs) permit() string         { return "devfs = [" + quoteHCL(d.Rule.String()) + "]" }

// devfsRule is a rule's text. Several may cover a request together: an index compares them.
type devfsRule string

func (devfsRule) covers(Privilege, *Subject) bool { return false }
func (devfsRule) touches(Privilege) bool          { return true }

func (r devfsRule) deniable() error {
	words := strings.Fields(string(r))
	gives := func(word string) bool { return slices.Contains([]string{"unhide", "mode", "user", "group"}, word) }
	if slices.Contains(words, "hide") && !slices.ContainsFunc(words, gives) {
		return fmt.Errorf("a rule that only hides gives nothing, so this denies nothing: write unhide")
	}
	return nil
}

// devices is a way to compare rules, and with a comparer an index of some.
type devices[R any, C Comparer[R]] struct {
	read     func(text string) (R, error)
	compare  func([]R) (C, error)
	comparer C
}

func (d devices[R, C]) index(of []entry) (index, error) {
	rules := make([]R, len(of))
	for i, e := range of {
		var err error
		if rules[i], err = d.read(string(e.rule.(devfsRule))); err != nil {
			return nil, fmt.Errorf("%s: devfs: %w", e.where, err)
		}
	}
	var err error
	d.comparer, err = d.compare(rules)
	return d, err
}

// rule is the one that is asked for, read if only its text is known.
func (d devices[R, C]) rule(p Privilege) (R, error) {
	if r, is := p.(Devfs).Rule.(R); is {
		return r, nil
	}
	return d.read(p.(Devfs).Rule.String())
}

func (d devices[R, C]) covering(p Privilege, _ *Subject, use func(int) bool) ([]int, error) {
	r, err := d.rule(p)
	if err != nil {
		return nil, err
	}
	return d.comparer.Covering(r, use)
}

func (d devices[R, C]) touching(p Privilege, _ Chain, use func(int) bool) (int, error) {
	r, err := d.rule(p)
	if err != nil {
		return -1, err
	}
	return d.comparer.Touching(r, use)
}
