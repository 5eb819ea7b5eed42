package network

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
)

// pfKernel is what is done to pf. Each call is whole or not at all.
type pfKernel interface {
	// left are the addresses of tasks whose rules an earlier daemon has loaded.
	left() ([]netip.Addr, error)
	// sets are the rule sets of anchors.
	sets(anchors ...string) ([]pfSets, error)
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

	begun bool
	known [1 + pfBuckets]bool // whether have is what pf has: in the anchor, and in each bucket
	have  pfLayout
	sets  [1 + pfBuckets]pfSets // as they were after the last change of freejail's
	addrs []netip.Addr          // that may have states
	lost  bool                  // somebody else changed something, and nobody was told yet
}

// pfAnchors are those of known and sets.
var pfAnchors = func() (all []string) {
	for i := range pfBuckets {
		all = append(all, bucketAnchor(i))
	}
	return slices.Insert(all, 0, pfAnchor)
}()

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
	l.addrs = slices.Concat(before, addrs)
	slices.SortFunc(l.addrs, netip.Addr.Compare)
	l.addrs = slices.Compact(l.addrs) // a load that fails is tried every two seconds
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
	sets, err := l.kernel.sets(pfAnchors...)
	if err != nil {
		return err
	}
	*l = pfLoader{kernel: l.kernel, begun: true, addrs: addrs}
	for i := range l.known {
		l.known[i] = i > 0 && sets[i] == pfSets{} // a bucket that is not there is as is known
	}
	return nil
}

func (l *pfLoader) applyAnchor(want pfLayout) error {
	if l.known[0] && want.rules == l.have.rules {
		return l.changeTables(want, true)
	}
	l.known[0] = false
	if err := l.kernel.loadAnchor(want.text()); err != nil {
		return err
	}
	l.have.rules, l.have.tables = want.rules, maps.Clone(want.tables)
	return l.learn(0)
}

// learn takes what an anchor has now to be freejail's.
func (l *pfLoader) learn(i int) error {
	sets, err := l.kernel.sets(pfAnchors[i])
	if err == nil {
		l.known[i], l.sets[i] = true, sets[0]
	}
	return err
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
	for i, b := range want.buckets {
		if l.known[1+i] && b.equal(l.have.buckets[i]) {
			continue
		}
		l.known[1+i] = false
		if err := l.kernel.loadBucket(i, b); err != nil {
			return err
		}
		l.have.buckets[i] = b
		if err := l.learn(1 + i); err != nil {
			return err
		}
	}
	return nil
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
	sets, err := l.kernel.sets(pfAnchors...)
	if err != nil {
		return false, err
	}
	same = true
	for i := range sets {
		if l.known[i] && sets[i] != l.sets[i] {
			same, l.known[i] = false, false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.tables)) {
		if !l.known[0] {
			break
		}
		list, ok, err := l.kernel.addresses(name)
		if err != nil {
			return false, err
		}
		if sorted(list); !ok || !slices.Equal(list, l.have.tables[name]) {
			same, l.known[0], l.have.tables[name] = false, ok, list
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
	same = same && !l.lost && !slices.Contains(l.known[:], false)
	l.lost = false
	return same, nil
}
