// Package strictjson reads JSON that can be read in one way only, and of bounded
// size. The JSON of others is read by several programs, which differ in what
// they make of a name that is there twice, or in another case than expected.
package strictjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Rules are what a document has to keep to. Values are bounded as a text of few
// bytes can become many large structures.
type Rules struct {
	Bytes  int // of the text, at most
	Values int // at most: objects, arrays, strings, numbers, true, false and null, in all depths together
	// AnyCase takes a name that differs from a field's by its case alone for that
	// field, as encoding/json does. It is then not to be there in both.
	AnyCase bool
}

// maxDepth bounds objects and arrays within each other.
const maxDepth = 64

// maxPlace bounds what an error tells of a place, in bytes.
const maxPlace = 200

// Unmarshal is json.Unmarshal for a document of others; v must be a pointer.
// Over the limits, a name that is twice in an object, one that is a field's of v
// but for its case (see Rules), text that is not UTF-8, and anything after the
// document are errors. The error names the place, such as layers[3].digest. Fields that v
// does not know are checked likewise and passed over.
func Unmarshal(b []byte, v any, r Rules) error {
	turns <- struct{}{}
	defer func() { <-turns }()
	if err := check(b, reflect.TypeOf(v), r); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// turns bounds what is being read at once, and so what that takes beside the
// results. More would not be faster.
var turns = make(chan struct{}, runtime.GOMAXPROCS(0))

// Check is Unmarshal without the result; t may be nil, which knows no fields.
func Check(b []byte, t reflect.Type, r Rules) error {
	turns <- struct{}{}
	defer func() { <-turns }()
	return check(b, t, r)
}

func check(b []byte, t reflect.Type, r Rules) error {
	if len(b) > r.Bytes {
		return fmt.Errorf("%d bytes of JSON are over the limit of %d", len(b), r.Bytes)
	}
	if !utf8.Valid(b) {
		return errors.New("the JSON is not in UTF-8")
	}
	if !json.Valid(b) {
		return malformed(b)
	}
	w := &walker{text: string(b), rules: r, names: map[field]struct{}{}}
	err := w.value(t)
	var f *fault
	if errors.As(err, &f) {
		f.place = strings.TrimPrefix(f.place, ".")
	}
	return err
}

// malformed tells why something is not one JSON value.
func malformed(b []byte) error {
	var first json.RawMessage
	err := json.NewDecoder(bytes.NewReader(b)).Decode(&first)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("unexpected end of JSON")
	}
	return cmp.Or(err, errors.New("there is something after its end"))
}

// fault is what is wrong, and where.
type fault struct{ place, text string }

func (f *fault) Error() string {
	if f.place == "" {
		return f.text
	}
	return f.place + ": " + f.text
}

func faultf(format string, args ...any) *fault { return &fault{text: fmt.Sprintf(format, args...)} }

// in adds the place around to an error's.
func in(place string, err error) error {
	if f, ok := err.(*fault); ok && len(f.place) < maxPlace {
		f.place = place + f.place
	}
	return err
}

// walker goes through JSON of which the grammar is known to be right.
type walker struct {
	rules   Rules
	text    string
	at      int
	depth   int
	values  int
	objects int
	names   map[field]struct{} // those that were seen
}

// field is a name in the object of a number.
type field struct {
	object int
	name   string
}

// next passes over white space and tells what follows.
func (w *walker) next() byte {
	for strings.IndexByte(" \t\r\n", w.text[w.at]) >= 0 {
		w.at++
	}
	return w.text[w.at]
}

func (w *walker) value(t reflect.Type) error {
	if w.values++; w.values > w.rules.Values {
		return faultf("there are more than %d values in the JSON", w.rules.Values)
	}
	switch w.next() {
	case '{':
		return w.within(func() error { return w.object(shapeOf(t)) })
	case '[':
		return w.within(func() error { return w.array(shapeOf(t)) })
	case '"':
		_, err := w.string()
		return err
	}
	for w.at < len(w.text) && strings.IndexByte(",]} \t\r\n", w.text[w.at]) < 0 {
		w.at++
	}
	return nil
}

func (w *walker) within(walk func() error) error {
	if w.depth++; w.depth > maxDepth {
		return faultf("the JSON is more than %d deep", maxDepth)
	}
	w.at++
	err := walk()
	w.at++
	w.depth--
	return err
}

func (w *walker) object(s *shape) error {
	w.objects++
	own := w.objects
	for w.next() != '}' {
		if w.text[w.at] == ',' {
			w.at++
			w.next()
		}
		name, err := w.string()
		if err != nil {
			return err
		}
		t, known := s.field(name)
		if known != name && !w.rules.AnyCase {
			return in("."+printable(name), faultf("some programs take it for %q: write it so, or leave it out", known))
		}
		if _, twice := w.names[field{own, known}]; twice {
			return in("."+printable(name), faultf("duplicate key"))
		}
		w.names[field{own, known}] = struct{}{}
		w.next()
		w.at++ // the colon
		if err := w.value(t); err != nil {
			return in("."+printable(name), err)
		}
	}
	return nil
}

func (w *walker) array(s *shape) error {
	for i := 0; w.next() != ']'; i++ {
		if w.text[w.at] == ',' {
			w.at++
		}
		if err := w.value(s.elem); err != nil {
			return in("["+strconv.Itoa(i)+"]", err)
		}
	}
	return nil
}

// string passes over one and returns what it says.
func (w *walker) string() (string, error) {
	start := w.at
	w.at++
	escaped := false
	for ; w.text[w.at] != '"'; w.at++ {
		if w.text[w.at] == '\\' {
			escaped = true
			w.at++
		}
	}
	w.at++
	raw := w.text[start:w.at]
	if !escaped {
		return raw[1 : len(raw)-1], nil
	}
	if !paired(raw) {
		return "", faultf("a \\u escape is half of a surrogate pair")
	}
	var s string
	err := json.Unmarshal([]byte(raw), &s)
	return s, err
}

// paired is false where an escape names half of a character, of which some
// programs make U+FFFD and others something else.
func paired(raw string) bool {
	high := false // the escape just before is the first half
	for i := 0; i < len(raw); i++ {
		n := rune(-1)
		if raw[i] == '\\' {
			if i++; raw[i] == 'u' {
				u, _ := strconv.ParseUint(raw[i+1:i+5], 16, 32) // the grammar is right
				n = rune(u)
				i += 4
			}
		}
		low := n >= 0xdc00 && n < 0xe000
		if low != high {
			return false
		}
		high = n >= 0xd800 && n < 0xdc00
	}
	return !high
}

func printable(name string) string {
	if len(name) > maxPlace {
		name = strings.ToValidUTF8(name[:maxPlace], "") + "..."
	}
	q := strconv.QuoteToASCII(name)
	if q == `"`+name+`"` {
		return name
	}
	return q
}
