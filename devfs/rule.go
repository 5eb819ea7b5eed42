// Package devfs speaks the rule language of devfs(8), composes the rules of a
// jail, and keeps the host's rulesets.
package devfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxPattern is the kernel's room for a path pattern, with its final NUL:
// DEVFS_MAXPTRNLEN in sys/fs/devfs/devfs.h.
const maxPattern = 200

// Rule is one rule: conditions, all of which a node must meet, and actions.
type Rule struct {
	Path string // glob relative to /dev; empty: any
	Type string // disk, mem, tape, tty; empty: any

	Hide, Unhide bool
	User, Group  *uint32
	Mode         *uint32
}

// ParseRule reads one rule as devfs(8) writes it, without a number, such as
// "path 'bpf*' unhide mode 660". Users and groups are numbers: an image cannot
// know the host's names. `include` is refused: the kernel ignores it in
// included sets, so that it would hide less than it says.
func ParseRule(text string) (Rule, error) {
	var r Rule
	words, err := splitWords(text)
	if err != nil {
		return r, fmt.Errorf("devfs rule %q: %w", text, err)
	}
	if len(words) > 0 && words[0] == "add" {
		words = words[1:]
	}
	for len(words) > 0 {
		n, err := r.take(words)
		if err != nil {
			return Rule{}, fmt.Errorf("devfs rule %q: %w", text, err)
		}
		words = words[n:]
	}
	if !r.Hide && !r.Unhide && r.User == nil && r.Group == nil && r.Mode == nil {
		return Rule{}, fmt.Errorf("devfs rule %q: it has no action: hide, unhide, user, group or mode", text)
	}
	return r, nil
}

// take reads one condition or action and returns how many words it was.
func (r *Rule) take(words []string) (int, error) {
	switch words[0] {
	case "hide", "unhide":
		if r.Hide || r.Unhide {
			return 0, fmt.Errorf("hide or unhide is given twice")
		}
		r.Hide, r.Unhide = words[0] == "hide", words[0] == "unhide"
		return 1, nil
	case "include":
		return 0, fmt.Errorf("include is not allowed: write the rules out")
	}
	if len(words) < 2 {
		return 0, fmt.Errorf("unknown keyword %q, or its value is missing", words[0])
	}
	v := words[1]
	switch words[0] {
	case "path":
		if r.Path != "" {
			return 0, fmt.Errorf("path is given twice")
		}
		return 2, r.setPath(v)
	case "type":
		if r.Type != "" || v != "disk" && v != "mem" && v != "tape" && v != "tty" {
			return 0, fmt.Errorf("type %q: want one of disk, mem, tape, tty, once", v)
		}
		r.Type = v
		return 2, nil
	case "user":
		return 2, setNumber(&r.User, "user", v, 10, 1<<32-1)
	case "group":
		return 2, setNumber(&r.Group, "group", v, 10, 1<<32-1)
	case "mode":
		return 2, setNumber(&r.Mode, "mode", v, 8, 0o777)
	}
	return 0, fmt.Errorf("unknown keyword %q: want path, type, hide, unhide, user, group or mode", words[0])
}

func (r *Rule) setPath(v string) error {
	v = strings.TrimPrefix(v, "/dev/")
	switch {
	case v == "" || strings.HasPrefix(v, "/") || strings.Contains("/"+v+"/", "/../"):
		return fmt.Errorf("path %q is not relative to /dev", v)
	case len(v) >= maxPattern:
		return fmt.Errorf("the path has %d characters, the kernel takes %d", len(v), maxPattern-1)
	case strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' || c == '\'' }):
		return fmt.Errorf("path %q has a character that a rule cannot hold", v)
	}
	if _, err := parseGlob(v); err != nil {
		return fmt.Errorf("path %w", err)
	}
	r.Path = v
	return nil
}

func setNumber(dst **uint32, name, v string, base int, max uint64) error {
	if *dst != nil {
		return fmt.Errorf("%s is given twice", name)
	}
	n, err := strconv.ParseUint(v, base, 64)
	if err != nil || n > max {
		return fmt.Errorf("%s %q is not a number of base %d up to %s", name, v, base, strconv.FormatUint(max, base))
	}
	u := uint32(n)
	*dst = &u
	return nil
}

// splitWords splits at blanks; single or double quotes hold a word together.
func splitWords(s string) ([]string, error) {
	var words []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " \t") {
		if q := s[0]; q == '\'' || q == '"' {
			end := strings.IndexByte(s[1:], q)
			if end < 0 {
				return nil, fmt.Errorf("a quotation mark is not closed")
			}
			words, s = append(words, s[1:1+end]), s[2+end:]
			continue
		}
		end := strings.IndexAny(s, " \t")
		if end < 0 {
			end = len(s)
		}
		if strings.ContainsAny(s[:end], "'\"\n\r") {
			return nil, fmt.Errorf("%q: a quotation mark or line break within a word", s[:end])
		}
		words, s = append(words, s[:end]), s[end:]
	}
	return words, nil
}

// String is the rule's canonical text: equal rules have equal texts.
func (r Rule) String() string {
	var w []string
	if r.Path != "" {
		p := r.Path
		if strings.ContainsAny(p, "*?[]\\ \t\"") {
			p = "'" + p + "'"
		}
		w = append(w, "path "+p)
	}
	if r.Type != "" {
		w = append(w, "type "+r.Type)
	}
	if r.Hide {
		w = append(w, "hide")
	}
	if r.Unhide {
		w = append(w, "unhide")
	}
	if r.User != nil {
		w = append(w, fmt.Sprintf("user %d", *r.User))
	}
	if r.Group != nil {
		w = append(w, fmt.Sprintf("group %d", *r.Group))
	}
	if r.Mode != nil {
		w = append(w, fmt.Sprintf("mode %o", *r.Mode))
	}
	return strings.Join(w, " ")
}

// MarshalText gives the canonical text.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a rule.
func (r *Rule) UnmarshalText(b []byte) error {
	v, err := ParseRule(string(b))
	*r = v
	return err
}

// Compose encloses what was asked for between the host's rules and puts a hide
// of everything first, so that a set which is loaded half-way shows too little,
// never too much. What is asked for in another order, or twice, gives the same
// list where that gives the same /dev.
func Compose(open, requested, closing []Rule) []Rule {
	out := append([]Rule{{Hide: true}}, open...)
	return append(append(out, canonical(requested)...), closing...)
}

// canonical sorts rules that only unhide, as their order does not matter, and
// drops what is there twice.
func canonical(rules []Rule) []Rule {
	for _, r := range rules {
		if !r.Unhide || r.User != nil || r.Group != nil || r.Mode != nil {
			return slices.CompactFunc(slices.Clone(rules), func(a, b Rule) bool { return a.String() == b.String() })
		}
	}
	sorted := slices.Clone(rules)
	slices.SortFunc(sorted, func(a, b Rule) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(sorted, func(a, b Rule) bool { return a.String() == b.String() })
}
