package policy

import (
	"maps"
	"slices"
	"strings"
)

// index finds the rules that bear on a privilege, by their places in the list that it was made
// of, and of those that use takes.
type index interface {
	// covering returns the rule that contains the privilege, or those that do together.
	covering(p Privilege, s *Subject, use func(int) bool) ([]int, error)
	// touching returns the first rule that is about some of it, or -1.
	touching(p Privilege, host Chain, use func(int) bool) (int, error)
}

// near calls f with the places of rules that can cover a privilege, or with wide set also of those
// that can touch it, until f says that it has found one.
type near func(p Privilege, wide bool, f func(int) bool)

// compared is an index of rules that are compared one by one.
type compared struct {
	entries []entry
	near    near
}

// oneByOne makes indexes that compare only what is near.
func oneByOne(sorted func([]entry) near) func([]entry, Devices) (index, error) {
	return func(of []entry, _ Devices) (index, error) { return compared{of, sorted(of)}, nil }
}

func (c compared) covering(p Privilege, s *Subject, use func(int) bool) (found []int, err error) {
	c.near(p, false, func(i int) bool {
		if c.entries[i].rule.covers(p, s) && use(i) {
			found = []int{i}
		}
		return found != nil
	})
	return found, nil
}

func (c compared) touching(p Privilege, _ Chain, use func(int) bool) (int, error) {
	found := -1
	c.near(p, true, func(i int) bool {
		if c.entries[i].rule.touches(p) && use(i) {
			found = i
		}
		return found >= 0
	})
	return found, nil
}

// all is near for kinds of which there are few rules.
func all(of []entry) near {
	return func(_ Privilege, _ bool, f func(int) bool) {
		for i := range of {
			if f(i) {
				return
			}
		}
	}
}

// What prefixes sorts by. A rule's prefix is what the key of every privilege that it covers begins
// with; a deny of it is also about what is below or above one of the wide keys.
type (
	prefixed interface{ prefix() string }
	keyed    interface {
		nearKey() string
		wideKeys() []string
	}
)

// lookup finds the few rules that can be about a privilege, by what its name or
// path begins with, so that a long policy is not read through.
type lookup struct {
	byPrefix map[string][]int
	lengths  []int    // of the prefixes that there are
	sorted   []string // the prefixes
}

// byPrefix is near for rules that are prefixed, and privileges that are keyed.
func byPrefix(of []entry) near {
	l := lookup{byPrefix: map[string][]int{}}
	for i, e := range of {
		p := e.rule.(prefixed).prefix()
		l.byPrefix[p] = append(l.byPrefix[p], i)
	}
	l.sorted = slices.Sorted(maps.Keys(l.byPrefix))
	lengths := map[int]bool{}
	for _, p := range l.sorted {
		lengths[len(p)] = true
	}
	l.lengths = slices.Sorted(maps.Keys(lengths))
	return l.each
}

func (l *lookup) each(p Privilege, wide bool, f func(int) bool) {
	k := p.(keyed)
	if !wide {
		l.beginning(k.nearKey(), f)
		return
	}
	for _, key := range k.wideKeys() {
		if l.beginning(key, f) || l.below(key, f) {
			return
		}
	}
}

// beginning is about rules whose prefix the key begins with.
func (l *lookup) beginning(key string, f func(int) bool) bool {
	for _, n := range l.lengths {
		if n > len(key) {
			break
		}
		if slices.ContainsFunc(l.byPrefix[key[:n]], f) {
			return true
		}
	}
	return false
}

// below is about rules whose prefix begins with the key and goes on.
func (l *lookup) below(key string, f func(int) bool) bool {
	from, _ := slices.BinarySearch(l.sorted, key)
	for _, p := range l.sorted[from:] {
		if !strings.HasPrefix(p, key) {
			return false
		}
		if p != key && slices.ContainsFunc(l.byPrefix[p], f) {
			return true
		}
	}
	return false
}
