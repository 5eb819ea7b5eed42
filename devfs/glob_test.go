package devfs

import (
	"math/rand"
	"strings"
	"testing"
)

// fnmatch is the C library's, written out for comparison: FNM_PATHNAME alone.
func fnmatch(p, s string) bool {
	for p != "" {
		switch p[0] {
		case '*':
			for i := 0; ; i++ {
				if fnmatch(p[1:], s[i:]) {
					return true
				}
				if i == len(s) || s[i] == '/' {
					return false
				}
			}
		case '?':
			if s == "" || s[0] == '/' {
				return false
			}
			p, s = p[1:], s[1:]
		case '[':
			if s == "" || s[0] == '/' {
				return false
			}
			ok, rest := rangematch(p[1:], s[0])
			if !ok {
				return false
			}
			p, s = rest, s[1:]
		default:
			if p[0] == '\\' {
				p = p[1:]
			}
			if s == "" || s[0] != p[0] {
				return false
			}
			p, s = p[1:], s[1:]
		}
	}
	return s == ""
}

func rangematch(p string, c byte) (bool, string) {
	negate := p[0] == '!' || p[0] == '^'
	if negate {
		p = p[1:]
	}
	one := func() byte {
		if p[0] == '\\' {
			p = p[1:]
		}
		b := p[0]
		p = p[1:]
		return b
	}
	ok := false
	for first := true; first || p[0] != ']'; first = false {
		lo := one()
		hi := lo
		if p[0] == '-' && p[1] != ']' {
			p = p[1:]
			hi = one()
		}
		ok = ok || lo <= c && c <= hi
	}
	return ok != negate, p[1:]
}

// deviceNames are all names of up to five of these letters, and real ones.
func deviceNames() []string {
	names := strings.Fields("null zero bpf bpf0 bpf10 mem kmem io tty ttyu0 ttyu0.init pts/0 pts/12 fd/3 da0 da0p1 " +
		"da0s1a ada0 nvd0 input/event0 dri/card0 led/a]b a-b a\\b x*y")
	last := []string{""}
	for range 5 {
		var next []string
		for _, n := range last {
			for _, c := range "ab0/-]*" {
				next = append(next, n+string(c))
			}
		}
		names, last = append(names, next...), next
	}
	return names
}

var pieces = []string{"a", "b", "0", "/", "*", "*", "?", "[ab]", "[!a]", "[^0]", "[a-b]", "[0-9]", "[]a]", "[!]b]",
	"[a\\-b]", "\\a", "\\*", "[-a]", "[a-]", "[\\]0]"}

func randomPattern(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.Intn(4) {
		b.WriteString(pieces[r.Intn(len(pieces))])
	}
	return b.String()
}

func mustGlob(t *testing.T, p string) glob {
	t.Helper()
	g, err := parseGlob(p)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGlobMatchesAsFnmatch(t *testing.T) {
	names := deviceNames()
	r := rand.New(rand.NewSource(1))
	for range 150 {
		p := randomPattern(r)
		g := mustGlob(t, p)
		for _, n := range names {
			if got, want := g.matches(n), fnmatch(p, n); got != want {
				t.Fatalf("%q matches %q: %v, want %v", p, n, got, want)
			}
		}
	}
}

// The comparison of patterns agrees with trying all names: a name that
// disproves it is short where the patterns are.
func TestContainmentByBruteForce(t *testing.T) {
	names := deviceNames()
	r := rand.New(rand.NewSource(2))
	yes := 0
	for range 400 {
		a, b, c := randomPattern(r), randomPattern(r), randomPattern(r)
		if r.Intn(3) == 0 {
			a = "*" + b // else few are contained
		}
		ga, gb, gc := mustGlob(t, a), mustGlob(t, b), mustGlob(t, c)
		within, both, meets := true, true, false
		for _, n := range names {
			ma, mb, mc := ga.matches(n), gb.matches(n), gc.matches(n)
			within = within && (!mb || ma)
			both = both && (!mb || ma || mc)
			meets = meets || ma && mb
		}
		if got, err := gb.within([]glob{ga}); err != nil || got != within {
			t.Errorf("%q within %q: %v %v, want %v", b, a, got, err, within)
		}
		if got, err := gb.within([]glob{ga, gc}); err != nil || got != both {
			t.Errorf("%q within %q or %q: %v %v, want %v", b, a, c, got, err, both)
		}
		if got := ga.meets(gb); got != meets {
			t.Errorf("%q meets %q: %v, want %v", a, b, got, meets)
		}
		if within {
			yes++
		}
	}
	if yes < 80 {
		t.Errorf("only %d of the patterns were contained: the test says little", yes)
	}
}

func TestHardPatterns(t *testing.T) {
	hard := mustGlob(t, "*a"+strings.Repeat("?", 60))
	if in, err := mustGlob(t, "*").within([]glob{hard}); in || err != nil {
		t.Errorf("all names are in a part of them: %v %v", in, err)
	}
	// Each place may be held or not: 2^60 sets.
	if in, err := mustGlob(t, "*a"+strings.Repeat("[ab]", 60)).within([]glob{hard,
		mustGlob(t, "*b"+strings.Repeat("?", 90))}); err == nil && !in {
		t.Error("contained by the first, but refused")
	}
	if in, _ := mustGlob(t, "*b*"+strings.Repeat("[ab]", 60)).within([]glob{hard}); in {
		t.Error("intricate patterns are taken for contained")
	}
}

func TestIndex(t *testing.T) {
	rules := []Rule{parse(t, "path 'bpf[0-4]' unhide"), parse(t, "path 'bpf[5-9]' unhide"),
		parse(t, "path 'da*' unhide mode 640 group 5"), parse(t, "type tty unhide")}
	x, err := NewIndex(rules)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"path 'bpf[0-9]' unhide":          2, // by two together
		"path 'bpf?' unhide":              0,
		"path bpf7 unhide":                1,
		"path da0 unhide mode 600":        1,
		"path da0 unhide mode 644":        0,
		"path da0 unhide group 5":         1,
		"path da0 unhide group 0":         0,
		"path da0 unhide user 0":          0,
		"path mem type tty unhide":        1,
		"path mem type disk unhide":       0,
		"path 'd[a-b]0' unhide":           0,
		"unhide":                          0,
		"path bpf0 unhide mode 777":       0,
		"path 'bpf[0-46-9]' unhide":       2,
		"path 'bpf\\0' unhide":            1,
		"path '[b]pf3' unhide":            1,
		"path '[b]p[f]*' unhide":          0,
		"path '[!\\!-~]' unhide":          0,
		"path 'da[0-9]*' unhide mode 440": 1,
	} {
		by, err := x.Covering(parse(t, text), nil)
		if err != nil || len(by) != want {
			t.Errorf("%s is covered by %v, %v; want %d rules", text, by, err, want)
		}
	}
	for text, want := range map[string]int{"path 'b*' unhide": 0, "path 'b*' hide": -1, "unhide": 0,
		"path mem unhide": 3, "path mem type disk unhide": -1,
		"path da1 type disk mode 7": 2, "path da1 type disk group 5": 2} {
		if i, err := x.Touching(parse(t, text), nil); err != nil || i != want {
			t.Errorf("%s touches %d %v, want %d", text, i, err, want)
		}
	}
}

// FuzzContains looks for a name that a request opens and its permit does not.
func FuzzContains(f *testing.F) {
	f.Add("bpf*", "bpf[0-3]", "bpf1")
	f.Add("[!a]*", "b?", "bx")
	f.Add("\\*", "*", "*")
	f.Add("a/*", "a*", "a/b")
	f.Add("[]-]x", "[]-a]x", "]x")
	f.Fuzz(func(t *testing.T, permitted, requested, name string) {
		a, err := ParseRule("path '" + permitted + "' unhide")
		if err != nil {
			return
		}
		b, err := ParseRule("path '" + requested + "' unhide")
		if err != nil || name == "" || strings.ContainsRune(name, 0) || a.Path == "" || b.Path == "" {
			return
		}
		if got := mustGlob(t, b.Path).matches(name); got != fnmatch(b.Path, name) {
			t.Fatalf("%q matches %q: %v", b.Path, name, got)
		}
		node := Node{Path: name}
		hits := func(r Rule) bool { return Visible([]Rule{{Hide: true}, r}, node) }
		if contains(a, b) && hits(b) && !hits(a) {
			t.Fatalf("%q is said to contain %q, which alone opens %q", a, b, name)
		}
		if !contains(b, b) {
			if g := mustGlob(t, b.Path); len(g) < 12 {
				t.Fatalf("%q does not contain itself", b)
			}
		}
	})
}
