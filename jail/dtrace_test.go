package jail

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What comes with freejail shows nothing but the jail: each clause has its id for a predicate, or goes on with what
// one has begun that had.
func TestReadyScriptsAreConfined(t *testing.T) {
	clause := regexp.MustCompile(`(?m)^[a-zA-Z][^{/;]*\n(/[^\n]*/\n)?\{`)
	asItIs := regexp.MustCompile(`%-?[0-9]*s`)
	comment := regexp.MustCompile(`(?s)/\*.*?\*/`)
	for _, name := range ReadyScripts() {
		text, err := readyScript(name)
		if err != nil || !strings.Contains(text, "$1 is the jail's id") {
			t.Errorf("%s: %v", name, err)
		}
		found := clause.FindAllString(comment.ReplaceAllString(text, ""), -1)
		if len(found) < 2 {
			t.Errorf("%s: %d clauses", name, len(found))
		}
		for _, c := range found {
			if !strings.Contains(c, "/jid == $1") && !strings.Contains(c, "/self->") && !strings.HasPrefix(c, "END\n") {
				t.Errorf("%s: a clause is about the whole host: %s", name, c)
			}
		}
		old := ofOlderDtrace(text)
		if strings.Contains(old, "/jid ") || !strings.Contains(old, "/curpsinfo->pr_jailid == $1") {
			t.Errorf("%s for older versions:\n%s", name, old)
		}
		if asItIs.MatchString(strings.ReplaceAll(text, "ms %s", "")) { // which is probefunc
			t.Errorf("%s prints a program's text as it is, with lines of its own: %%S escapes it", name)
		}
		for _, secret := range []string{"psargs", "arg1, arg2)"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows %s", name, secret)
			}
		}
	}
	if want := []string{"connects", "exec", "offcpu", "opens", "slow"}; !slices.Equal(ReadyScripts(), want) {
		t.Errorf("there are %s", ReadyScripts())
	}
	if _, err := readyScript("../dtrace/opens"); !errors.Is(err, ErrNoScript) {
		t.Error(err)
	}
}

func TestVersionsOfDtrace(t *testing.T) {
	for said, want := range map[string]bool{"dtrace: Sun D 1.13\n": true, "dtrace: Sun D 2.0": true,
		"dtrace: Sun D 1.12.1": false, "dtrace: Sun D 0.99": false, "": false, "nonsense": false} {
		if dtraceKnowsJails(said) != want {
			t.Errorf("%q", said)
		}
	}
}

// Lines come in any pieces, and one without an end is told in pieces of a bounded length.
func TestLinesOfATrace(t *testing.T) {
	var got []string
	l := &lines{tell: func(s string) error { got = append(got, s); return nil }}
	for _, p := range []string{"a", "b\nc\n\nd", "", "e\n", strings.Repeat("x", 2*maxLine+1)} {
		if n, err := l.Write([]byte(p)); err != nil || n != len(p) {
			t.Errorf("%q: %d %v", p, n, err)
		}
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	x := strings.Repeat("x", maxLine)
	if want := []string{"ab", "c", "", "de", x, x, "x"}; !slices.Equal(got, want) {
		t.Errorf("%.50q", got)
	}
	l.tell = func(string) error { return errNoSpace }
	if _, err := l.Write([]byte("a\n")); !errors.Is(err, errNoSpace) {
		t.Error(err)
	}
}

func TestTextsOfDtraceEnd(t *testing.T) {
	for said, want := range map[string]string{
		`  1004 web\0                80 ms kevent`: `  1004 web                  80 ms kevent`,
		`   7      1 exec web\0`:                   `   7      1 exec web`, `a\\0 b\033[m\0`: `a\\0 b\033[m`, "": "",
	} {
		if got := withoutNULs(said); got != want {
			t.Errorf("%q is %q, want %q", said, got, want)
		}
	}
}
