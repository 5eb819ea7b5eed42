package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, Grüße, 漢字, émile": "plain text, Grüße, 漢字, émile",
		"a\nallowed\tb\r":              `a\nallowed\tb\r`,
		"\x1b]0;title\a\x7f":           `\u001b]0;title\u0007\u007f`,
		"\u009b31m":                    `\u009b31m`,
		"\x9b31m \xff":                 `\x9b31m \xff`,
		"a\u202eb\u2066c\u200bd\ufeff": `a\u202eb\u2066c\u200bd\ufeff`,
		"\u2028\u2029\u0085":           `\u2028\u2029\u0085`,
		"\U000e0041\ue000":             `\udb40\udc41\ue000`,
		"\u3164\u115f\ufe0f\u2800":     `\u3164\u115f\ufe0f\u2800`,
		"\u00a0\u3000":                 `\u00a0\u3000`,
		"a  b   c":                     `a \u0020b \u0020\u0020c`,
		`\u001b and \n`:                `\u001b and \n`,
	} {
		if got := Line(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if got := Line(want); got != want {
			t.Errorf("twice: %s becomes %s", want, got)
		}
	}
	if got := Cell(strings.Repeat("ä", 300)); !strings.HasSuffix(got, "ä…(44 more)") {
		t.Errorf("a long cell: %s", got)
	}
}

// Whatever goes in: out come visible characters, of Writer newlines and tabs too,
// and going through again changes nothing.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "a", "a\nb", "\x1b]0;x\a", "  \u202e", "\xc3", "\xf0\x9f", "   ",
		"\ufeff\U000e0001"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, at int) {
		seen := func(out, keep string) {
			t.Helper()
			for _, r := range out {
				if !strings.ContainsRune(keep, r) &&
					(unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || !unicode.IsPrint(r)) {
					t.Errorf("%q gives %q", s, out)
				}
			}
		}
		line := Line(s)
		seen(line, "")
		if Line(line) != line || strings.Contains(line, "  ") {
			t.Errorf("%q: %q, and twice %q", s, line, Line(line))
		}
		seen(Text(s), "\n")
		seen(Flat(s), "")
		var b bytes.Buffer
		w := NewWriter(&b)
		at = min(max(at, 0), len(s))
		for _, part := range []string{s[:at], s[at:], "."} {
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		var whole bytes.Buffer
		if _, err := NewWriter(&whole).Write([]byte(s + ".")); err != nil || whole.String() != b.String() {
			t.Errorf("%q in two: %q, in one: %q", s, b.String(), whole.String())
		}
		seen(b.String(), "\n\t")
		sameJSON(t, s)
	})
}

func sameJSON(t *testing.T, s string) {
	t.Helper()
	before, err := json.Marshal(map[string]string{s: s})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := NewWriter(&b).Write(before); err != nil {
		t.Fatal(err)
	}
	var old, now map[string]string
	if err := errors.Join(json.Unmarshal(before, &old), json.Unmarshal(b.Bytes(), &now)); err != nil ||
		fmt.Sprintf("%q", old) != fmt.Sprintf("%q", now) {
		t.Errorf("JSON %q became %q: %v", before, b.String(), err)
	}
}

type ownLines struct{}

func (ownLines) Error() string     { return "first\n  second\x1b" }
func (ownLines) Printable() string { return ownLines{}.Error() }

func TestError(t *testing.T) {
	hostile := errors.New("no \x1b[2J\nallowed")
	for _, c := range []struct {
		err  error
		want string
	}{
		{hostile, `no \u001b[2J\nallowed`},
		{errors.Join(hostile, errors.New("b")), "no \\u001b[2J\\nallowed\nb"},
		{fmt.Errorf("image \n: %w, at the end", errors.Join(errors.New("a"), hostile)),
			"image \\n: a\nno \\u001b[2J\\nallowed, at the end"},
		{fmt.Errorf("%w and %w\n", hostile, errors.New("b")), `no \u001b[2J\nallowed and b\n`},
		{fmt.Errorf("x: %w", ownLines{}), "x: first\n  second\\u001b"},
		{fmt.Errorf("x: %v", ownLines{}), `x: first\n \u0020second\u001b`},
	} {
		if got := Error(c.err); got != c.want {
			t.Errorf("%q: %q, want %q", c.err, got, c.want)
		}
	}
}

func TestSprintf(t *testing.T) {
	type state string
	got := Sprintf("%s %v %q %-6s| %.2q %d %5.1f %s %v %s %t %s", "a\nb", state("\x1b"), "q\u202e\"", "ab", "äöü", 7,
		1.5, time.Second,
		errors.New("e\n"), []string{"x\n", "y"}, true, Lines("l1\nl2\r"))
	want := "a\\nb \\u001b \"q\\u202e\\\"\" ab    | \"äö\" 7   1.5 1s e\\n [x\\n y] true l1\nl2\\r"
	if got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
}

func TestBlockAndFlat(t *testing.T) {
	if got, want := Block("  | ", "\n# Use\n\n\tfreejail run\r\nallowed\u2028.\n"),
		"  | # Use\n  | \n  |     freejail run\\r\n  | allowed\\u2028.\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := Flat("refuses:\n  one\n  two\nApprove:\n  cmd\x1b"),
		`refuses: one; two; Approve: cmd\u001b`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
