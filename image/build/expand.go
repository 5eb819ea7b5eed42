package build

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	maxNested = 32  // variables in each other's ${}
	maxGlob   = 256 // bytes of a pattern in ${}
)

var errVariable = errors.New("it is not a valid variable: write ${NAME}, ${NAME:-default}, ${NAME:+alternative}, " +
	"${NAME:?message}, ${NAME#prefix}, ${NAME%suffix} or ${NAME/pattern/replacement}, or escape the dollar sign")

// expandContainer is expand with the forms that a Containerfile may have.
func (l *lexer) expandContainer(s string) (string, int, error) {
	if !strings.HasPrefix(s, "${") {
		name := variableName(s[1:])
		if name == "" {
			return "$", 1, nil
		}
		value, _, err := l.value(name, true)
		return value, 1 + len(name), err
	}
	if l.depth++; l.depth > maxNested {
		return "", 0, fmt.Errorf("variables are more than %d deep in each other", maxNested)
	}
	defer func() { l.depth-- }()
	name := variableName(s[2:])
	i := 2 + len(name)
	if name == "" || i == len(s) {
		return "", 0, fmt.Errorf("%.40q: %w", s, errVariable)
	}
	value, n, err := l.modified(name, s[i:])
	if err != nil && l.depth == 1 {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return value, i + n, err
}

var containerVariable = regexp.MustCompile(`^(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])`)

// variableName is the one that s begins with: of letters, digits and _, a
// number, or one of a shell's own.
func variableName(s string) string { return containerVariable.FindString(s) }

// value is empty for what is not set, which is told if it is used as it is.
func (l *lexer) value(name string, used bool) (value string, set bool, err error) {
	value, err = l.vars(name)
	var limit limitError
	switch {
	case err == nil:
		return value, true, nil
	case errors.As(err, &limit):
		return "", false, err
	}
	if used && l.unset != nil {
		l.unset(name)
	}
	return "", false, nil
}

// modified is what follows the name in ${}, up to the brace.
func (l *lexer) modified(name, s string) (string, int, error) {
	switch s[0] {
	case '}':
		value, _, err := l.value(name, true)
		return value, 1, err
	case '#', '%':
		return l.trimmed(name, s)
	case '/':
		return l.replaced(name, s)
	}
	i := 0
	if s[0] == ':' {
		i = 1
	}
	if i == len(s) || strings.IndexByte("-+?", s[i]) < 0 {
		return "", 0, errVariable
	}
	word, n, err := l.until(s[i+1:], '}', false)
	if err != nil {
		return "", 0, err
	}
	value, set, err := l.value(name, false)
	has := set && (i == 0 || value != "")
	switch {
	case err != nil:
	case s[i] == '-' && !has, s[i] == '+' && has:
		value = word
	case s[i] == '+':
		value = ""
	case s[i] == '?' && !has && word == "":
		err = errors.New("it has no value")
	case s[i] == '?' && !has:
		err = errors.New(word)
	}
	return value, i + 1 + n, err
}

// until reads text as a word, up to a character that is neither quoted nor
// escaped. As a pattern it keeps the escapes, and quotes become such.
func (l *lexer) until(text string, stop byte, pattern bool) (string, int, error) {
	var w strings.Builder
	quote := byte(0)
	literal := func(c byte) {
		if pattern && strings.IndexByte(`*?\`, c) >= 0 {
			w.WriteByte('\\')
		}
		w.WriteByte(c)
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && c == stop:
			return w.String(), i + 1, nil
		case quote != 0 && c == quote:
			quote = 0
		case quote == '\'':
			literal(c)
		case quote == 0 && !l.raw && (c == '\'' || c == '"'):
			quote = c
		case c == l.escape:
			kept, err := l.escaped(text[i:], quote)
			if err != nil {
				return "", 0, err
			}
			for j := range len(kept) {
				literal(kept[j])
			}
			i++
		case c == '$':
			value, n, err := l.expandWithin(w.Len(), text[i:])
			if err != nil {
				return "", 0, err
			}
			w.WriteString(value)
			i += n - 1
		case quote != 0:
			literal(c)
		default:
			w.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", 0, fmt.Errorf("unterminated %c", quote)
	}
	if stop == 0 {
		return w.String(), len(text), nil
	}
	return "", 0, fmt.Errorf("missing %q", stop)
}

// word reads all of a text as one word.
func (l *lexer) word(text string) (string, error) {
	out, _, err := l.until(text, 0, false)
	return out, err
}

// trimmed is ${NAME#prefix} and ${NAME%suffix}: the shortest that matches, or
// the longest where the sign stands twice.
func (l *lexer) trimmed(name, s string) (string, int, error) {
	sign, longest := s[0], len(s) > 1 && s[1] == s[0]
	begin := 1
	if longest {
		begin = 2
	}
	pattern, n, err := l.until(s[begin:], '}', true)
	if err != nil {
		return "", 0, err
	}
	value, _, err := l.value(name, true)
	if err != nil {
		return "", 0, err
	}
	form := "^(?:%s)(.*)$"
	if sign == '%' {
		form = "^(.*)(?:%s)$"
		if longest {
			form = "^(.*?)(?:%s)$"
		}
	}
	re, err := l.regexp(form, pattern, longest, value)
	if err != nil {
		return "", 0, err
	}
	if m := re.FindStringSubmatch(value); m != nil {
		value = m[1]
	}
	return value, begin + n, nil
}

// replaced is ${NAME/pattern/replacement}, and // for all that matches.
func (l *lexer) replaced(name, s string) (string, int, error) {
	begin := 1
	if len(s) > 1 && s[1] == '/' {
		begin = 2
	}
	pattern, n, err := l.until(s[begin:], '/', true)
	if err != nil {
		return "", 0, err
	}
	word, m, err := l.until(s[begin+n:], '}', false)
	if err != nil {
		return "", 0, err
	}
	value, _, err := l.value(name, true)
	if err != nil {
		return "", 0, err
	}
	re, err := l.regexp("(?:%s)", pattern, true, value)
	if err != nil {
		return "", 0, err
	}
	limit := 1
	if begin == 2 {
		limit = -1
	}
	var out strings.Builder
	last := 0
	for _, at := range re.FindAllStringIndex(value, limit) {
		out.WriteString(value[last:at[0]] + word)
		last = at[1]
		if err := fitsWord(out.Len()); err != nil {
			return "", 0, err
		}
	}
	out.WriteString(value[last:])
	return out.String(), begin + n + m, nil
}

// regexp makes one of a shell's pattern, of *, ? and escapes, in a form.
func (l *lexer) regexp(form, pattern string, longest bool, value string) (*regexp.Regexp, error) {
	if len(pattern) > maxGlob {
		return nil, fmt.Errorf("the pattern has more than %d bytes", maxGlob)
	}
	if l.charge != nil {
		if err := l.charge(len(value) * (len(pattern) + 1)); err != nil {
			return nil, err
		}
	}
	star := ".*?"
	if longest {
		star = ".*"
	}
	var out strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '*':
			out.WriteString(star)
		case c == '?':
			out.WriteString(".")
		default:
			if c == '\\' && i+1 < len(pattern) {
				i++
			}
			out.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	return regexp.Compile("(?s)" + fmt.Sprintf(form, out.String()))
}
