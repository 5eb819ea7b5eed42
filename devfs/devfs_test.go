package devfs

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) Rule {
	t.Helper()
	r, err := ParseRule(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRuleText(t *testing.T) {
	for in, want := range map[string]string{
		"path bpf* unhide":                   "path 'bpf*' unhide",
		"add path 'bpf*'   unhide mode 0660": "path 'bpf*' unhide mode 660",
		"path /dev/null unhide":              "path null unhide",
		"type tty user 5 group 7 hide":       "type tty hide user 5 group 7",
		"hide":                               "hide",
	} {
		r := parse(t, in)
		if r.String() != want {
			t.Errorf("%q: got %q, want %q", in, r, want)
		}
		if again := parse(t, r.String()); again.String() != r.String() {
			t.Errorf("%q is not read back as itself", r)
		}
	}
}

func TestRuleRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "no action",
		"path null":                  "no action",
		"include 4":                  "include",
		"path ../etc unhide":         "relative",
		"path a/../../b unhide":      "relative",
		"path / unhide":              "relative",
		"path 'x unhide":             "not closed",
		"path [ unhide":              "syntax",
		"hide unhide":                "twice",
		"path a path b unhide":       "twice",
		"path null unhide mode 7777": "mode",
		"path null unhide mode 9":    "mode",
		"path null unhide user root": "user",
		"type floppy hide":           "type",
		"path x unhide exec /bin/sh": "unknown keyword",
		"path x\nunhide":             "line break",
		"path " + strings.Repeat("x", 200) + " unhide": "kernel takes",
	} {
		if r, err := ParseRule(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", in, r, err, want)
		}
	}
}

func TestContains(t *testing.T) {
	for _, c := range []struct {
		permitted, requested string
		want                 bool
	}{
		{"path 'bpf*' unhide", "path 'bpf*' unhide", true},
		{"path 'bpf*' unhide", "path bpf0 unhide", true},
		{"path 'bpf*' unhide", "path 'bpf[0-3]' unhide", true},
		{"path bpf0 unhide", "path 'bpf*' unhide", false},
		{"path 'bpf?' unhide", "path 'bpf*' unhide", false},
		{"path 'b*f' unhide", "path 'b*' unhide", false},
		{"path 'b*' unhide", "path 'b/x' unhide", false},
		{"path '*' unhide", "unhide", false},
		{"unhide", "path mem unhide", true},
		{"path mem hide", "path mem unhide", false},
		{"path null unhide", "path null unhide mode 666", false},
		{"path null unhide mode 660", "path null unhide mode 600", true},
		{"path null unhide mode 660", "path null unhide mode 666", false},
		{"path null unhide mode 660", "path null unhide mode 660 user 0", false},
		{"type disk unhide", "unhide", false},
		{"unhide", "type disk unhide", true},
	} {
		if got := contains(parse(t, c.permitted), parse(t, c.requested)); got != c.want {
			t.Errorf("%q contains %q: got %v", c.permitted, c.requested, got)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("path 'bpf*' unhide mode 660")
	f.Add("type tty user 5 hide")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q -> %q -> %q, %v", s, r, again, err)
		}
		if !contains(r, r) && r.Unhide {
			t.Fatalf("%q does not contain itself", r)
		}
	})
}

type memStore struct{ sets []Set }

func (m *memStore) Load() ([]Set, error) { return m.sets, nil }
func (m *memStore) Save(s []Set) error   { m.sets = s; return nil }

func TestRegistry(t *testing.T) {
	k, store := NewMemory(), &memStore{}
	foreign := parse(t, "path zfs unhide")
	if err := k.Add(100, 1, foreign); err != nil {
		t.Fatal(err)
	}
	cfg := Config{First: 100, Last: 103, MaxSets: 2, MaxRules: 5}
	r, err := NewRegistry(k, store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	list := func(p string) []Rule {
		return Compose([]Rule{parse(t, "path null unhide")}, []Rule{parse(t, "path "+p+" unhide")}, nil)
	}
	a, err := r.Acquire(list("a"), "one")
	if err != nil || a == 100 {
		t.Fatalf("got %d, %v; 100 belongs to someone else", a, err)
	}
	if again, err := r.Acquire(list("a"), "two"); again != a || err != nil {
		t.Errorf("equal rules: got %d, %v, want %d", again, err, a)
	}
	b, err := r.Acquire(list("b"), "three")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Acquire(list("c"), "four"); err == nil || !strings.Contains(err.Error(), "max_sets") {
		t.Errorf("over the maximum: %v", err)
	}
	r.Release("three")
	c, err := r.Acquire(list("c"), "four")
	if err != nil || c != b {
		t.Errorf("a set without holders makes room: got %d, %v, want %d", c, err, b)
	}
	if _, err := r.Acquire(append(list("d"), list("e")...), "five"); err == nil ||
		!strings.Contains(err.Error(), "max_rules") {
		t.Errorf("too many rules: %v", err)
	}

	// Someone adds to our set: it is not handed out any more, nor deleted.
	if err := k.Add(a, 99, foreign); err != nil {
		t.Fatal(err)
	}
	r2, err := NewRegistry(k, store, Config{First: 100, Last: 110, MaxSets: 5, MaxRules: 5})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r2.Acquire(list("a"), "six"); err != nil || n == a {
		t.Errorf("a changed set was handed out: %d, %v", n, err)
	}
	if err := r2.Reconcile(map[string]uint16{"four": c}); err != nil {
		t.Fatal(err)
	}
	if rules, err := k.Rules(a); err != nil || len(rules) == 0 {
		t.Errorf("a set that someone changed was deleted")
	}
	if rules, err := k.Rules(100); err != nil || len(rules) != 1 {
		t.Errorf("the foreign set was touched")
	}
	if sets := r2.List(); len(sets) != 1 || sets[0].ID != c || !slices.Equal(sets[0].Holders, []string{"four"}) {
		t.Errorf("after reconcile: %+v", sets)
	}
}

type failing struct{ *Memory }

func (f failing) Add(set, n uint16, r Rule) error {
	if n == 3 {
		return errors.New("no memory")
	}
	return f.Memory.Add(set, n, r)
}

func TestHalfLoadedSetIsNotHandedOut(t *testing.T) {
	k := failing{NewMemory()}
	r, err := NewRegistry(k, &memStore{}, Config{First: 1, Last: 9, MaxSets: 9, MaxRules: 9})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := r.Acquire([]Rule{{Hide: true}, parse(t, "path a unhide"), parse(t, "path b unhide")},
		"x"); err == nil {
		t.Fatalf("got ruleset %d", id)
	}
	if sets, err := k.Sets(); err != nil || len(sets) != 0 {
		t.Errorf("left behind: %v %v", sets, err)
	}
}

func TestVisible(t *testing.T) {
	rules := Compose([]Rule{parse(t, "path null unhide"), parse(t, "path 'bpf*' unhide")}, nil,
		[]Rule{parse(t, "path bpf1 hide")})
	for name, want := range map[string]bool{"null": true, "mem": false, "bpf0": true, "bpf1": false} {
		if Visible(rules, Node{Path: name}) != want {
			t.Errorf("%s: want visible=%v", name, want)
		}
	}
}

// contains reports whether everything that the requested rule opens is opened
// by the permitted one too. It is exact: paths are compared as the sets of the
// names that they match. Patterns too complex to compare are not contained.
func contains(permitted, requested Rule) bool {
	i, err := NewIndex([]Rule{permitted})
	if err != nil {
		return false
	}
	by, err := i.Covering(requested, nil)
	return err == nil && len(by) > 0
}
