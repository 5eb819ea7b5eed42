package image

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// maxPatterns bounds what all patterns of a manifest add up to, in characters
// when their repetitions are written out. regexp itself allows one to become a
// program of 128 MiB (maxSize in regexp/syntax/parse.go).
const maxPatterns = 100000

// patterns compiles the patterns of one manifest.
type patterns struct{ size int }

func (p *patterns) compile(text string) (*regexp.Regexp, error) {
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if p.size += len(text) + patternSize(re); p.size > maxPatterns {
		return nil, fmt.Errorf("the patterns are too large: with their repetitions written out they have over %d characters", maxPatterns)
	}
	return regexp.Compile(text)
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
