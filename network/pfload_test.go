package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// fakePF is a pf that tells what is done to it.
type fakePF struct {
	log    []string
	lines  int // that were loaded
	fails  string
	tables map[string][]netip.Prefix
	bucket [pfBuckets]string
	number uint32
	loaded [1 + pfBuckets]pfSets
	before []netip.Addr
}

func (f *fakePF) did(what string) error {
	f.log = append(f.log, what)
	if f.fails != "" && strings.HasPrefix(what, f.fails) {
		return errors.New(what + " fails")
	}
	return nil
}

func (f *fakePF) left() ([]netip.Addr, error) { return f.before, nil }

func (f *fakePF) sets(anchors ...string) (all []pfSets, err error) {
	for _, a := range anchors {
		all = append(all, f.loaded[slices.Index(pfAnchors, a)])
	}
	return all, nil
}

// loads is the number of a rule set with some text.
func (f *fakePF) loads(text string) (s pfSets) {
	f.lines += strings.Count(text, "\n")
	f.number++
	if text != "" {
		s[0] = pfRuleset{f.number, uint32(strings.Count(text, "\n"))}
	}
	return s
}

func (f *fakePF) loadAnchor(text string) error {
	if err := f.did("anchor"); err != nil {
		return err
	}
	f.loaded[0], f.tables = f.loads(text), map[string][]netip.Prefix{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if fields[0] != "table" {
			break
		}
		name := strings.Trim(fields[1], "<>")
		f.tables[name] = nil
		for _, a := range fields[3 : len(fields)-1] {
			if !strings.Contains(a, "/") {
				a = pfSingle(netip.MustParseAddr(a)).String()
			}
			f.tables[name] = append(f.tables[name], netip.MustParsePrefix(a))
		}
	}
	return nil
}

func (f *fakePF) loadBucket(i int, b pfBucket) error {
	if err := f.did(bucketAnchor(i)); err != nil {
		return err
	}
	f.bucket[i], f.loaded[1+i] = b.text(), f.loads(b.text())
	return nil
}

func (f *fakePF) addresses(table string) ([]netip.Prefix, bool, error) {
	list, ok := f.tables[table]
	return slices.Clone(list), ok, nil
}

func (f *fakePF) change(table string, add, remove []netip.Prefix) error {
	f.lines += len(add) + len(remove)
	f.tables[table] = slices.DeleteFunc(append(f.tables[table], add...),
		func(p netip.Prefix) bool { return slices.Contains(remove, p) })
	return f.did(fmt.Sprintf("table %s +%d -%d", table, len(add), len(remove)))
}

func (f *fakePF) forget(a netip.Addr) error { return f.did("forget " + a.String()) }

// manyTasks are of a nat network with a port each and addresses of both families.
func manyTasks(n int) (Network, []Task) {
	web := pfNetwork("web", NAT, "10.88.0.0/16", "fd00:88::/64")
	a4, a6 := web.Gateway4, web.Gateway6
	var tasks []Task
	for i := range n {
		a4, a6 = a4.Next(), a6.Next()
		t := pfTask(fmt.Sprintf("t%d", i), web, a4.String(), a6.String())
		t.Published = []Publication{pfPublished("", Port{"tcp", uint16(20000 + i), 1}, 8080)}
		tasks = append(tasks, t)
	}
	return web, tasks
}

type pfFixture struct {
	*testing.T
	*fakePF
	loader *pfLoader
}

func newPFFixture(t *testing.T) pfFixture {
	f := &fakePF{}
	return pfFixture{t, f, &pfLoader{kernel: f}}
}

// apply loads tasks, and is what was done for it.
func (f pfFixture) apply(n Network, tasks []Task) []string {
	f.Helper()
	f.log, f.lines = nil, 0
	want, err := pfRules([]Network{n}, tasks, pfTestHost)
	if err != nil {
		f.Fatal(err)
	}
	var addrs []netip.Addr
	for _, t := range tasks {
		addrs = append(addrs, t.Addr4, t.Addr6)
	}
	if err := f.loader.apply(want, addrs); err != nil {
		f.log = append(f.log, err.Error())
		return f.log
	}
	if !maps.EqualFunc(want.tables, f.tables, func(a, b []netip.Prefix) bool { return slices.Equal(a, sorted(b)) }) {
		f.Errorf("tables %v, want %v", f.tables, want.tables)
	}
	for i, b := range want.buckets {
		if b.text() != f.bucket[i] {
			f.Errorf("bucket %d:\n%s\nwant\n%s", i, f.bucket[i], b.text())
		}
	}
	return f.log
}

func (f pfFixture) want(got []string, want ...string) {
	f.Helper()
	if !slices.Equal(got, want) {
		f.Errorf("%q, want %q", got, want)
	}
}

// A start and an end change as much among 300 tasks as among none: their addresses, and the rules of one bucket.
func TestStartIsConstant(t *testing.T) {
	f := newPFFixture(t)
	n, tasks := manyTasks(300)
	last := tasks[299]
	f.apply(n, nil)
	start, end := f.apply(n, tasks[299:]), f.apply(n, nil)
	f.want(start, "table freejail_web +2 -0", "freejail/45")
	f.want(end, "freejail/45", "table freejail_web +0 -2", "forget "+last.Addr4.String(), "forget "+last.Addr6.String())
	f.apply(n, tasks[:299])
	f.want(f.apply(n, tasks), start...)
	if most := 2 + 4*(300/pfBuckets+1); f.lines > most {
		t.Errorf("a start among 300 has loaded %d lines, want at most %d", f.lines, most)
	}
	f.want(f.apply(n, tasks[:299]), end...)
	f.want(f.apply(n, tasks[:299]))
	last.Published = nil
	f.want(f.apply(n, append(tasks[:299:299], last)), "table freejail_web +2 -0")
}

// What somebody else changes is made good by the next load, and told once.
func TestChangesOfOthers(t *testing.T) {
	f := newPFFixture(t)
	n, tasks := manyTasks(3)
	f.apply(n, tasks)
	for name, harm := range map[string]func(){
		"anchor":      func() { f.loaded[0] = f.loads("pass\n") },
		"flushed":     func() { f.loaded[0] = pfSets{} },
		"freejail/03": func() { f.loaded[4] = pfSets{} },
		"freejail/60": func() { f.loaded[61] = f.loads("pass\n") },
		"table":       func() { f.tables["freejail_web"] = f.tables["freejail_web"][1:] },
		"no table":    func() { delete(f.tables, "freejail_web") },
	} {
		for _, noticed := range []bool{true, false} {
			harm()
			if noticed {
				if ok, err := f.loader.intact(); ok || err != nil {
					t.Errorf("%s: %v %v", name, ok, err)
				}
			}
			if log := f.apply(n, tasks); len(log) != 1 {
				t.Errorf("%s: %q", name, log)
			}
			if ok, err := f.loader.intact(); ok != noticed || err != nil {
				t.Errorf("%s, noticed %v: %v %v after a load", name, noticed, ok, err)
			}
			if ok, err := f.loader.intact(); !ok || err != nil {
				t.Errorf("%s: %v %v", name, ok, err)
			}
		}
	}
}

// What fails is done again, and nothing is given up before: neither rules, nor addresses whose states are there.
func TestFailedLoads(t *testing.T) {
	f := newPFFixture(t)
	n, tasks := manyTasks(2)
	f.apply(n, tasks)
	first := tasks[0]
	for fails, done := range map[string][]string{
		"freejail/02": {"freejail/02", "freejail/02 fails"},
		"table":       {"freejail/02", "table freejail_web +0 -2", "table freejail_web +0 -2 fails"},
		"forget 10.88.0.2": {"freejail/02", "table freejail_web +0 -2", "forget 10.88.0.2", "forget fd00:88::2",
			"forget 10.88.0.2 fails"},
	} {
		f.fails = fails
		f.want(f.apply(n, tasks[1:]), done...)
		f.fails = ""
		log := f.apply(n, tasks[1:])
		f.want(log[max(0, len(log)-2):], "forget "+first.Addr4.String(), "forget "+first.Addr6.String())
		f.apply(n, tasks)
	}
	other := n
	other.Isolate = true
	f.fails = "anchor"
	for range 3 {
		f.want(f.apply(other, tasks[1:]), "anchor", "anchor fails")
	}
	if len(f.loader.addrs) != 4 {
		t.Errorf("states may be of %v", f.loader.addrs)
	}
	f.fails = ""
	f.want(f.apply(other, tasks[1:]), "anchor", "freejail/02", "forget 10.88.0.2", "forget fd00:88::2")
}

// The first load of a daemon takes over what it finds, and forgets those that ended without one.
func TestTakenOver(t *testing.T) {
	f := newPFFixture(t)
	n, tasks := manyTasks(2)
	f.apply(n, tasks)
	f.loader = &pfLoader{kernel: f.fakePF}
	f.before = []netip.Addr{tasks[0].Addr4, tasks[1].Addr4}
	if ok, err := f.loader.intact(); ok || err != nil {
		t.Errorf("before the first load: %v %v", ok, err)
	}
	f.want(f.apply(n, tasks[1:]), "anchor", "freejail/02", "freejail/03", "forget "+tasks[0].Addr4.String())
}
