package printable

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// Sprintf is fmt.Sprintf for a format of ours with values of others: each becomes
// one line, an error the lines of Error.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, safe(args)...) }

// Fprintf writes what Sprintf gives.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	return fmt.Fprintf(w, format, safe(args)...)
}

// Fprintln writes values, each as one line, with blanks between them.
func Fprintln(w io.Writer, args ...any) (int, error) { return fmt.Fprintln(w, safe(args)...) }

// Lines are values that are shown as they are but for Text: text of ours.
type Lines string

func safe(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = safeOne(a)
	}
	return out
}

func safeOne(a any) any {
	switch v := a.(type) {
	case nil, bool:
		return a
	case Lines:
		return value{a, string(v), Text(string(v))}
	case error:
		return value{a, v.Error(), Error(v)}
	case []byte:
		return value{string(v), string(v), Line(string(v))}
	case []string:
		lines := make([]any, len(v))
		for i, s := range v {
			lines[i] = safeOne(s)
		}
		return lines
	}
	if _, named := a.(fmt.Stringer); !named {
		if k := reflect.TypeOf(a).Kind(); k >= reflect.Int && k <= reflect.Complex128 {
			return a
		}
	}
	text := fmt.Sprint(a)
	return value{a, text, Line(text)}
}

// value prints its text in place of its own.
type value struct {
	own       any
	raw, text string
}

// Format implements fmt.Formatter.
func (v value) Format(f fmt.State, verb rune) {
	switch verb {
	case 's', 'v':
		fmt.Fprintf(f, fmt.FormatString(f, 's'), v.text)
	case 'q':
		raw := v.raw
		if n, cut := f.Precision(); cut {
			if r := []rune(raw); len(r) > n {
				raw = string(r[:n])
			}
		}
		fmt.Fprint(f, Line(strconv.Quote(raw)))
	default:
		fmt.Fprintf(f, fmt.FormatString(f, verb), v.own)
	}
}

// Error is the text of an error: one line, or one for each error that errors.Join
// has put together. An error whose lines are its own has a method Printable that
// gives them.
func Error(err error) string {
	switch e := err.(type) {
	case nil:
		return ""
	case interface{ Printable() string }:
		return Text(e.Printable())
	case interface{ Unwrap() []error }:
		return around(err.Error(), e.Unwrap())
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return around(err.Error(), []error{inner})
		}
	}
	return Line(err.Error())
}

// around is a text with those of other errors in it.
func around(text string, inner []error) string {
	var raw, lines []string
	for _, e := range inner {
		raw, lines = append(raw, e.Error()), append(lines, Error(e))
	}
	if len(inner) > 0 && text == strings.Join(raw, "\n") {
		return strings.Join(lines, "\n")
	}
	out := ""
	for i := range inner {
		before, after, found := strings.Cut(text, raw[i])
		if found && raw[i] != "" {
			out, text = out+Line(before)+lines[i], after
		}
	}
	return out + Line(text)
}
