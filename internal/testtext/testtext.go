// Package testtext has hostile text for tests, and finds what of it got through.
package testtext

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hostile has all that an image could want on a terminal: a title, colours by C0
// and C1, the end of the line and a line of its own, text from right to left,
// separators, what has no shape, what is no UTF-8, and blanks up to the next line.
const Hostile = "evil\x1b]0;x\a\r\n" + forged +
	"\u202e\u2066\u009b31m\x9b31m\u2028\u2029\u200b\ufeff\u3164\U000e0041\x7f\b          \n" + forged

const forged = "FORGED allowed"

// Sly is what of Hostile is left in text that may have lines and no controls.
const Sly = "evil\n" + forged + "\u202e\u2066\u2028\u2029\u200b\ufeff\u3164\U000e0041          \n" + forged

// Harmless is what both are compared with: their words, and nothing else.
const Harmless = "evil FORGED allowed 31m31m FORGED allowed"

// Steers finds what is not seen as it is, but for newlines.
func Steers(text string) (rune, bool) {
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 || r != '\n' && (unicode.IsControl(r) ||
			unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
				unicode.Other_Default_Ignorable_Code_Point)) {
			return r, true
		}
	}
	return 0, false
}

// Forged finds a line that begins as Hostile wants one to.
func Forged(text string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "FORGED") {
			return true
		}
	}
	return false
}
