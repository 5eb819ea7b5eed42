package devfs

import (
	"errors"
	"fmt"
	"math/bits"
)

// A glob is a pattern of fnmatch(3) with FNM_PATHNAME, which is how the kernel
// matches the path of a rule: no *, ? or [] takes a slash, a backslash takes
// the next character literally.
type glob []element

// element takes one character out of a set, or any number of them.
type element struct {
	set  charset
	star bool
}

// charset is a set of bytes.
type charset [4]uint64

func (c *charset) add(b byte)      { c[b>>6] |= 1 << (b & 63) }
func (c *charset) has(b byte) bool { return c[b>>6]&(1<<(b&63)) != 0 }

func (c charset) and(o charset) charset {
	for i := range c {
		c[i] &= o[i]
	}
	return c
}

func (c charset) without(o charset) charset {
	for i := range c {
		c[i] &^= o[i]
	}
	return c
}

func (c charset) empty() bool { return c == charset{} }

// single is the only byte of a set.
func (c charset) single() (byte, bool) {
	n := 0
	for _, word := range c {
		n += bits.OnesCount64(word)
	}
	return c.first(), n == 1
}

// first is the lowest byte of a set that is not empty.
func (c charset) first() byte {
	for i, word := range c {
		if word != 0 {
			return byte(i<<6 + bits.TrailingZeros64(word))
		}
	}
	return 0
}

// anything is what ? takes: no slash, and no NUL, which ends a name.
var anything = func() (c charset) {
	for b := 1; b < 256; b++ {
		if b != '/' {
			c.add(byte(b))
		}
	}
	return c
}()

// parseGlob refuses what fnmatch takes in an unexpected way: a bracket that is
// not closed or has a slash in it, which it takes literally or never matches,
// and a range that is empty.
func parseGlob(p string) (glob, error) {
	g := make(glob, 0, len(p))
	for i := 0; i < len(p); i++ {
		switch c := p[i]; c {
		case '*':
			if n := len(g); n == 0 || !g[n-1].star {
				g = append(g, element{anything, true})
			}
		case '?':
			g = append(g, element{anything, false})
		case '[':
			set, n, err := parseSet(p[i+1:])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", p, err)
			}
			g = append(g, element{set, false})
			i += n
		default:
			if c == '\\' {
				if i++; i == len(p) {
					return nil, fmt.Errorf("%q: a backslash at its end", p)
				}
				c = p[i]
			}
			var set charset
			set.add(c)
			g = append(g, element{set, false})
		}
	}
	return g, nil
}

var errBracket = errors.New("syntax of a bracket expression: it is not closed")

// parseSet reads what follows a [ and returns its length up to the ].
func parseSet(p string) (set charset, n int, err error) {
	i, negated := 0, false
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		negated, i = true, i+1
	}
	take := func() (byte, error) {
		if i < len(p) && p[i] == '\\' {
			i++
		}
		if i >= len(p) {
			return 0, errBracket
		}
		if p[i] == '/' {
			return 0, errors.New("syntax of a bracket expression: a slash in it matches nothing")
		}
		i++
		return p[i-1], nil
	}
	for first := true; first || i >= len(p) || p[i] != ']'; first = false { // a ] in the first place is itself
		lo, err := take()
		if err != nil {
			return set, 0, err
		}
		hi := lo
		if i+1 < len(p) && p[i] == '-' && p[i+1] != ']' {
			i++
			if hi, err = take(); err != nil {
				return set, 0, err
			}
		}
		if lo > hi {
			return set, 0, fmt.Errorf("syntax of a bracket expression: the range %c-%c is empty", lo, hi)
		}
		for b := int(lo); b <= int(hi); b++ {
			set.add(byte(b))
		}
	}
	if negated {
		return anything.without(set), i + 1, nil
	}
	return set.and(anything), i + 1, nil
}

// matches is fnmatch(3).
func (g glob) matches(name string) bool {
	at, back, mark := 0, -1, 0
	for i := 0; i < len(name); {
		switch {
		case at < len(g) && g[at].star:
			back, mark = at, i
			at++
		case at < len(g) && g[at].set.has(name[i]):
			at++
			i++
		case back >= 0 && g[back].set.has(name[mark]):
			mark++
			at, i = back+1, mark
		default:
			return false
		}
	}
	for at < len(g) && g[at].star {
		at++
	}
	return at == len(g)
}

// prefix is what every name that matches begins with.
func (g glob) prefix() string {
	var out []byte
	for _, e := range g {
		b, one := e.set.single()
		if e.star || !one {
			break
		}
		out = append(out, b)
	}
	return string(out)
}
