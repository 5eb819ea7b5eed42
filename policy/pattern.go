package policy

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// pattern is a glob as path.Match reads it, or a bound on a number. What it
// begins with literally sorts most strings out.
type pattern struct {
	glob, prefix string
	literal      bool
	low, high    *int64
}

func newPattern(glob string) (pattern, error) {
	if _, err := path.Match(glob, ""); err != nil {
		return pattern{}, fmt.Errorf("%q: %w", glob, err)
	}
	var begin []byte
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '*', '?', '[':
			return pattern{glob: glob, prefix: string(begin)}, nil
		case '\\':
			i++
		}
		begin = append(begin, glob[i])
	}
	return pattern{glob: glob, prefix: string(begin), literal: true}, nil
}

// newValue reads a value's pattern: a glob, "<=5", ">=2" or "1..3".
func newValue(s string) (pattern, error) {
	bound := func(text string) (*int64, error) {
		n, ok := number(strings.TrimSpace(text))
		if !ok {
			return nil, fmt.Errorf("%q: %q is not a number", s, text)
		}
		return &n, nil
	}
	p, err := pattern{}, error(nil)
	low, high, isRange := strings.Cut(s, "..")
	switch {
	case strings.HasPrefix(s, "<="):
		p.high, err = bound(s[2:])
	case strings.HasPrefix(s, ">="):
		p.low, err = bound(s[2:])
	case isRange:
		if p.low, err = bound(low); err == nil {
			p.high, err = bound(high)
		}
		if err == nil && *p.low > *p.high {
			err = fmt.Errorf("%q: the range is empty", s)
		}
	default:
		return newPattern(s)
	}
	return p, err
}

// number reads a number in the one way of writing it: 0x10, +1, 01 and 1 with
// a blank are none.
func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

// match reports whether the pattern takes all of s.
func (p pattern) match(s string) bool {
	switch {
	case p.low != nil || p.high != nil:
		n, ok := number(s)
		return ok && (p.low == nil || n >= *p.low) && (p.high == nil || n <= *p.high)
	case p.literal:
		return s == p.prefix
	case !strings.HasPrefix(s, p.prefix):
		return false
	}
	ok, err := path.Match(p.glob, s)
	return err == nil && ok // patterns were checked when they were read
}

// all is match for a value that may be a list, such as addresses: a glob takes
// each part of it.
func (p pattern) all(value string) bool {
	if p.literal || !strings.Contains(value, ",") {
		return p.match(value)
	}
	for one := range strings.SplitSeq(value, ",") {
		if !p.match(one) {
			return false
		}
	}
	return true
}

// anywhere is match with a * that takes slashes too.
func (p pattern) anywhere(s string) bool {
	const other = "\x01"
	p.glob, p.prefix = strings.ReplaceAll(p.glob, "/", other), strings.ReplaceAll(p.prefix, "/", other)
	return p.match(strings.ReplaceAll(s, "/", other))
}

// near tells whether a pattern takes a dotted name, one above or one below it:
// who is denied mount.tmpfs has no use for mount, and who is denied mount none
// for mount.tmpfs.
func (p pattern) near(name string) bool {
	if name == "" {
		return false
	}
	if p.anywhere(name) || p.below(name) {
		return true
	}
	for i := range name {
		if name[i] == '.' && p.anywhere(name[:i]) {
			return true
		}
	}
	return false
}

// parents are the names of permissions and parameters that have others below
// them in the kernel: see jail(8).
var parents = map[string]bool{"allow.mount": true, "mount": true, "ip4": true, "ip6": true, "children": true,
	"host": true, "linux": true, "zfs": true}

// below tells whether a pattern can take a name below another one: whether what
// it begins with is below, or for names with such, whether a part of it takes
// the other one.
func (p pattern) below(name string) bool {
	if strings.HasPrefix(p.prefix, name+".") {
		return true
	}
	for i := range p.glob {
		if !p.literal && parents[name] && (pattern{glob: p.glob[:i+1]}).anywhere(name+".") {
			return true
		}
	}
	return false
}

// positive is the name that a boolean's name with "no" before its last part
// negates; empty where it negates none.
func positive(name string) string {
	dot := strings.LastIndexByte(name, '.') + 1
	if base, ok := strings.CutPrefix(name[dot:], "no"); ok {
		return name[:dot] + base
	}
	return ""
}

// withPositive are a name, and the one that it negates.
func withPositive(name string) []string {
	if p := positive(name); p != "" {
		return []string{name, p}
	}
	return []string{name}
}

var globEscapes = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)

// escapeGlob is a glob that takes s alone.
func escapeGlob(s string) string { return globEscapes.Replace(s) }
