package image

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// maxPatterns bounds what all patterns of a manifest add up to, in characters
// when their repetitions are written out. regexp itself allows one to become a
// program of 128 MiB (maxSize in regexp/syntax/parse.go).
const maxPatterns = 20_000

// maxMatching bounds the time that all matches of a manifest's parameters take
// together. One takes a step for each character of the pattern, with its
// repetitions written out, at each byte of the value, and nothing ends it before.
const maxMatching = 20_000_000

// Patterns matches values with the patterns of one manifest's parameters. What
// they are and what they do is bounded in sum; the zero value has done nothing.
type Patterns struct{ size, steps int }

// Match tells whether a value, if there is one, matches a pattern. The error is
// that it is no pattern, or that it is too large or the value too long for it.
func (p *Patterns) Match(pattern string, value *string) (bool, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return false, err
	}
	size := len(pattern) + patternSize(parsed)
	if p.size += size; p.size > maxPatterns {
		return false, fmt.Errorf("the patterns are too large: written out they have over %d characters",
			maxPatterns)
	}
	if value != nil && pattern != "" {
		if p.steps += size * (len(*value) + 1); p.steps > maxMatching {
			return false, fmt.Errorf("a value of %d bytes is too long for its pattern of %d characters, "+
				"with its repetitions written out: length by characters, the parameters may have %d in sum",
				len(*value), size, maxMatching)
		}
	}
	re, err := regexp.Compile(pattern)
	return err == nil && (value == nil || re.MatchString(*value)), err
}

func patternSize(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += patternSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}
