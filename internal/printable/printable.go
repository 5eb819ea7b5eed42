// Package printable makes text that others wrote fit to be read. Images, jobs,
// tasks and registries choose much of what an operator sees; none of it may steer
// a terminal, look like other text than it is, or begin a line of its own.
//
// What is shown as an escape are the control characters (C0, DEL, C1), what is no
// UTF-8, every format character (bidirectional controls, zero-width characters,
// tags), separators of lines and paragraphs, blanks other than the space, private
// and unassigned characters, and letters without a shape: all that
// unicode.IsPrint leaves out, and the code points that Unicode calls ignorable by
// default. An escape is \uXXXX, in UTF-16 as in JSON, \n, \r or \t, and \xXX for a
// byte that is no UTF-8. A backslash stays one, so that text can go through here
// twice.
package printable

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// brailleBlank has a shape only by its name.
const brailleBlank = '\u2800'

func visible(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= ' ' && r < 0x7f
	}
	return unicode.IsPrint(r) && r != brailleBlank &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// escape writes s; keep are control characters that stay as they are.
func escape(b *strings.Builder, s, keep string) {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(b, `\x%02x`, s[i])
		case visible(r) || strings.ContainsRune(keep, r):
			b.WriteString(s[i : i+size])
		default:
			escapeRune(b, r)
		}
		i += size
	}
}

// plain tells of most texts at once that they can be shown.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func escapeRune(b *strings.Builder, r rune) {
	switch r {
	case '\n':
		b.WriteString(`\n`)
	case '\r':
		b.WriteString(`\r`)
	case '\t':
		b.WriteString(`\t`)
	default:
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(b, `\u%04x`, u)
		}
	}
}

// Line makes one line of s. Of blanks in a row the second and all that follow are
// escaped: a line cannot be padded until a terminal wraps it.
func Line(s string) string {
	if plain(s) && !strings.Contains(s, "  ") {
		return s
	}
	var all, b strings.Builder
	escape(&all, s, "")
	before := rune(0)
	for _, r := range all.String() {
		if r == ' ' && before == ' ' {
			escapeRune(&b, r)
		} else {
			b.WriteRune(r)
		}
		before = r
	}
	return b.String()
}

// maxCell bounds a cell of a table, in characters.
const maxCell = 256

// Cell is Line cut to a length at which a table can still be read. It says so.
func Cell(s string) string {
	s = Line(s)
	if r := []rune(s); len(r) > maxCell {
		return fmt.Sprintf("%s…(%d more)", string(r[:maxCell]), len(r)-maxCell)
	}
	return s
}

// Text keeps the lines of s, and its blanks.
func Text(s string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	escape(&b, s, "\n")
	return b.String()
}

// Block puts a prefix before each line of a text, so that none passes for a line
// of ours. Tabs become blanks.
func Block(prefix, s string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(s)) {
		line = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")
		b.WriteString(prefix + Text(line) + "\n")
	}
	return b.String()
}

// Flat makes one line of a text of ours that has several.
func Flat(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		line = Line(strings.TrimSpace(line))
		switch {
		case line == "":
			continue
		case b.Len() > 0 && strings.HasSuffix(b.String(), ":"):
			b.WriteByte(' ')
		case b.Len() > 0:
			b.WriteString("; ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// Writer is the second net under all that is written for people: it escapes what
// got through, but for newlines and tabs. JSON stays the same JSON. It may be used
// by several goroutines.
type Writer struct {
	w    io.Writer
	mu   sync.Mutex
	part []byte // of a character whose end is not written yet
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.part, p...)
	whole := len(all) - unfinished(all)
	w.part = append([]byte(nil), all[whole:]...)
	var b strings.Builder
	escape(&b, string(all[:whole]), "\n\t")
	if _, err := io.WriteString(w.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// unfinished is how many bytes at the end begin a character and lack its end.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
