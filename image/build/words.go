package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// lookup gives the value of a variable of the Jailfile.
type lookup func(name string) (value string, err error)

// isJSON reports whether arguments are in the JSON form.
func isJSON(text string) bool { return strings.HasPrefix(text, "[") }

// jsonWords reads the JSON form of arguments: an array of strings.
func jsonWords(text string) ([]string, error) {
	var words []string
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		return nil, fmt.Errorf(`not a JSON array of strings, as in ["/bin/prog", "-x"]: %w`, err)
	}
	return words, nil
}

// lexer reads words, of a Jailfile or as a Containerfile's are read.
type lexer struct {
	vars      lookup
	escape    byte // keeps the next character
	container bool // a variable that is not set is empty, and ${} has all forms
	// unset is told of a variable that is not set; it may be nil.
	unset func(name string)
	// charge is told what patterns cost; it may be nil.
	charge func(bytes int) error
	raw    bool // quotes are as other characters
	depth  int  // of variables in each other
}

func plainLexer(vars lookup) *lexer { return &lexer{vars: vars, escape: '\\'} }

// words splits text as a shell would, with variables replaced: single quotes
// keep everything, double quotes keep spaces, a backslash keeps the next
// character. What a variable holds is not split again.
func words(text string, vars lookup) ([]string, error) { return plainLexer(vars).words(text) }

// substitute replaces the variables of text and leaves everything else, quotes
// included, as it is.
func substitute(text string, vars lookup) (string, error) { return plainLexer(vars).substitute(text) }

func (l *lexer) words(text string) ([]string, error) {
	out, _, err := l.split(text)
	return out, err
}

func (l *lexer) split(text string) (out []string, operator byte, err error) {
	var w strings.Builder
	open, quote := false, byte(0)
	flush := func() {
		if open {
			out = append(out, w.String())
		}
		w.Reset()
		open = false
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == '\'' && c != '\'':
			w.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, open = c, true
		case c == l.escape:
			kept, err := l.escaped(text[i:], quote)
			if err != nil {
				return nil, 0, err
			}
			w.WriteString(kept)
			open = true
			i++
		case c == '$':
			value, n, err := l.expandWithin(w.Len(), text[i:])
			if err != nil {
				return nil, 0, err
			}
			w.WriteString(value)
			open = open || value != "" || quote != 0
			i += n - 1
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			flush()
		default:
			if quote == 0 && operator == 0 && strings.IndexByte("|&;<>`()", c) >= 0 {
				operator = c
			}
			w.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, 0, fmt.Errorf("unterminated %c", quote)
	}
	flush()
	return out, operator, nil
}

// escaped is what the escape that text begins with and the character after it
// stand for.
func (l *lexer) escaped(text string, quote byte) (string, error) {
	if len(text) == 1 {
		if l.container {
			return "", nil
		}
		return "", errors.New("a lone backslash at the end")
	}
	special := "\"$" + string(l.escape)
	if !l.container {
		special += "`"
	}
	if quote == '"' && strings.IndexByte(special, text[1]) < 0 {
		return text[:2], nil
	}
	return text[1:2], nil
}

// fitsWord bounds what variables can make of a word.
func fitsWord(n int) error {
	if n > maxLine {
		return limitError{fmt.Errorf("with its variables replaced a word has more than %d bytes", maxLine)}
	}
	return nil
}

var variable = regexp.MustCompile(`^\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:[-+])([^}]*))?\})`)

// expand replaces the variable that s begins with and tells how many bytes of
// s it was. A $ that begins no variable stands for itself.
func (l *lexer) expand(s string) (string, int, error) {
	if l.container {
		return l.expandContainer(s)
	}
	m := variable.FindStringSubmatch(s)
	if m == nil {
		if strings.HasPrefix(s, "${") {
			return "", 0, fmt.Errorf("%q is not a valid variable: write ${NAME}, ${NAME:-default} or "+
				"${NAME:+alternative}, or \\$ for a dollar sign", s)
		}
		return "$", 1, nil
	}
	name, mode, word := m[1]+m[2], m[3], m[4]
	value, err := l.vars(name)
	switch {
	case mode == ":-" && (err != nil || value == ""):
		return word, len(m[0]), nil
	case mode == ":+" && (err != nil || value == ""):
		return "", len(m[0]), nil
	case mode == ":+":
		return word, len(m[0]), nil
	}
	return value, len(m[0]), err
}

// expandWithin is expand in a word that has so many bytes already.
func (l *lexer) expandWithin(have int, s string) (string, int, error) {
	value, n, err := l.expand(s)
	if err == nil {
		err = fitsWord(have + len(value))
	}
	return value, n, err
}

func (l *lexer) substitute(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); {
		switch {
		case text[i] == l.escape && i+1 < len(text) && text[i+1] == '$':
			b.WriteByte('$')
			i += 2
		case text[i] == '$':
			value, n, err := l.expandWithin(b.Len(), text[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(value)
			i += n
		default:
			b.WriteByte(text[i])
			i++
		}
	}
	return b.String(), nil
}

// options reads the words that follow an instruction's fixed arguments:
// key=value for the keys, and bare words for the flags.
func options(list []string, keys, flags []string) (map[string]string, error) {
	out := make(map[string]string, len(list))
	for _, w := range list {
		key, value, has := strings.Cut(w, "=")
		known := keys
		if !has {
			known = flags
		}
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !found {
			return nil, fmt.Errorf("unknown option %q%s", w, choices("it takes", optionNames(keys, flags)))
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("option %q is given twice", key)
		}
		out[key] = value
	}
	return out, nil
}

func optionNames(keys, flags []string) []string {
	out := make([]string, 0, len(keys)+len(flags))
	for _, k := range keys {
		out = append(out, k+"=...")
	}
	return append(out, flags...)
}
