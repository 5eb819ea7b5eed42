package network

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
)

// pfKernel is what is done to pf. Each call is whole or not at all.
type pfKernel interface {
	// left are the addresses of tasks whose rules an earlier daemon has loaded.
	left() ([]netip.Addr, error)
	// sets are the numbers of the anchor's rule sets and of each bucket's; none where there are no rules.
	sets() (anchor pfSets, buckets [pfBuckets]pfSets, err error)
	// loadAnchor replaces rules and tables, but not what buckets have.
	loadAnchor(text string) error
	loadBucket(i int, b pfBucket) error
	// addresses of a table; ok is false where there is no such table.
	addresses(table string) (list []netip.Prefix, ok bool, err error)
	// change adds to a table and removes from it what it has or has not.
	change(table string, add, remove []netip.Prefix) error
	// forget ends all states that lead to an address or come from it.
	forget(a netip.Addr) error
}

// pfSets are rule sets: how many rules each has, and a number that each change makes another. All are zero
// where there are no rules.
type pfSets [3]pfRuleset

type pfRuleset struct{ ticket, rules uint32 }

// pfLoader knows what pf has, and changes what is to be another.
type pfLoader struct {
	kernel pfKernel

	begun   bool
	anchor  bool            // have.rules and have.tables are what pf has
	bucket  [pfBuckets]bool // so is that of have.buckets
	have    pfLayout
	sets    pfSets // as they were after the last change of freejail's
	buckets [pfBuckets]pfSets
	addrs   []netip.Addr // that may have states
	lost    bool         // somebody else changed something, and nobody was told yet
}

// apply has pf be as a layout for tasks with some addresses: what leads to a task has its address known before,
// and where it ends nothing leads to it before its states are ended. What fails leaves the rules of before in
// force, and is tried again by the next one.
func (l *pfLoader) apply(want pfLayout, addrs []netip.Addr) error {
	if err := l.begin(); err != nil {
		return err
	}
	same, err := l.verify()
	if err != nil {
		return err
	}
	l.lost = l.lost || !same
	before := l.addrs
	l.addrs = append(slices.Clone(before), addrs...)
	if err := l.applyAnchor(want); err != nil {
		return err
	}
	if err := l.applyBuckets(want); err != nil {
		return err
	}
	if err := l.changeTables(want, false); err != nil {
		return err
	}
	if err := l.forget(before, addrs); err != nil {
		return err
	}
	l.addrs = addrs
	return nil
}

// begin finds what an earlier daemon has left: of that nothing is known.
func (l *pfLoader) begin() error {
	if l.begun {
		return nil
	}
	addrs, err := l.kernel.left()
	if err != nil {
		return err
	}
	*l = pfLoader{kernel: l.kernel, begun: true, addrs: addrs}
	_, l.buckets, err = l.kernel.sets()
	for i := range l.bucket {
		l.bucket[i] = l.buckets[i] == pfSets{} // those that are not there are as is known
	}
	return err
}

func (l *pfLoader) applyAnchor(want pfLayout) error {
	if l.anchor && want.rules == l.have.rules {
		return l.changeTables(want, true)
	}
	l.anchor = false
	if err := l.kernel.loadAnchor(want.text()); err != nil {
		return err
	}
	sets, _, err := l.kernel.sets()
	if err != nil {
		return err
	}
	l.anchor, l.sets = true, sets
	l.have.rules, l.have.tables = want.rules, maps.Clone(want.tables)
	return nil
}

// changeTables adds addresses, or removes those that are there no more.
func (l *pfLoader) changeTables(want pfLayout, add bool) error {
	for name, list := range want.tables {
		more, less := without(list, l.have.tables[name]), without(l.have.tables[name], list)
		now := list
		if add {
			less, now = nil, sorted(append(more, l.have.tables[name]...))
		}
		if len(more)+len(less) == 0 {
			continue
		}
		if err := l.kernel.change(name, more, less); err != nil {
			return err
		}
		l.have.tables[name] = now
	}
	return nil
}

// without are those of a list that another does not have; both are sorted.
func without(list, other []netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		if _, ok := slices.BinarySearchFunc(other, p, comparePrefixes); !ok {
			out = append(out, p)
		}
	}
	return out
}

func sorted(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, comparePrefixes)
	return slices.Compact(list)
}

func (l *pfLoader) applyBuckets(want pfLayout) error {
	var changed []int
	var failed error
	for i, b := range want.buckets {
		if l.bucket[i] && b.equal(l.have.buckets[i]) {
			continue
		}
		l.bucket[i] = false
		if failed = l.kernel.loadBucket(i, b); failed != nil {
			break
		}
		changed = append(changed, i)
	}
	if len(changed) == 0 {
		return failed
	}
	_, sets, err := l.kernel.sets()
	if err != nil {
		return cmp.Or(failed, err)
	}
	for _, i := range changed {
		l.bucket[i], l.buckets[i], l.have.buckets[i] = true, sets[i], want.buckets[i]
	}
	return failed
}

// forget ends the states of addresses that no task has any more. All are tried.
func (l *pfLoader) forget(before, now []netip.Addr) error {
	left := map[netip.Addr]bool{}
	for _, a := range before {
		left[a] = true
	}
	for _, a := range now {
		delete(left, a)
	}
	var errs []error
	for _, a := range slices.SortedFunc(maps.Keys(left), netip.Addr.Compare) {
		errs = append(errs, l.kernel.forget(a))
	}
	return errors.Join(errs...)
}

// verify compares what is known with what pf has. What is not as it was is not known any more.
func (l *pfLoader) verify() (same bool, err error) {
	anchor, buckets, err := l.kernel.sets()
	if err != nil {
		return false, err
	}
	same = !l.anchor || anchor == l.sets
	l.anchor = l.anchor && same
	for i := range buckets {
		if l.bucket[i] && buckets[i] != l.buckets[i] {
			same, l.bucket[i] = false, false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.tables)) {
		if !l.anchor {
			break
		}
		list, ok, err := l.kernel.addresses(name)
		if err != nil {
			return false, err
		}
		if sorted(list); !ok || !slices.Equal(list, l.have.tables[name]) {
			same, l.anchor, l.have.tables[name] = false, ok, list
		}
	}
	return same, nil
}

// intact tells whether all is as it was loaded last, once for each change of somebody else.
func (l *pfLoader) intact() (bool, error) {
	if !l.begun {
		return false, nil
	}
	same, err := l.verify()
	if err != nil {
		return false, err
	}
	same = same && !l.lost && l.anchor && !slices.Contains(l.bucket[:], false)
	l.lost = false
	return same, nil
}
