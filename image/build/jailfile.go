package build

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// File is a parsed Jailfile: its instructions in order, not yet evaluated.
type File struct {
	Name         string
	Instructions []Instruction
	bastille     bool
	size         int  // bytes
	container    bool // it is a Containerfile
	notes        []note
}

// note is what a parser warns of.
type note struct {
	line int
	text string
	args []any
}

// Instruction is one instruction of a Jailfile.
type Instruction struct {
	Verb  string // upper case
	Line  int    // where it begins, from 1
	Flags []Flag // the --name=value options before the arguments
	Text  string // the arguments as written, continued lines joined
	// Heredoc is the body of a <<WORD that Text consists of; nil without one.
	Heredoc *string

	container bool      // it is of a Containerfile
	escape    byte      // that of its file; 0: a backslash
	old       bool      // ENV and LABEL: a name and its value without =
	heredocs  []heredoc // of COPY and ADD, whose Text names them

	file    string            // where it stands, if not in the File of that name
	dir     string            // of the context: what its sources are relative to
	recipe  bool              // it is of a Bastillefile
	word    string            // what stands there for Verb
	scope   *scope            // of that Bastillefile's arguments; nil: of the file that is built
	depth   int               // of the files that include each other
	through map[string]string // arguments of the INCLUDE that it came by
	fault   error             // why an INCLUDE could not be followed
	ofBase  bool              // it is an ONBUILD of an image: see mayTrigger
}

// Flag is one --name=value of COPY, ADD or RUN.
type Flag struct{ Name, Value string }

// Error is a fault in a Jailfile, or of the step that a line of it asks for.
type Error struct {
	File string
	Line int
	Verb string // empty where the line has none
	Err  error
}

func (e *Error) Error() string {
	if e.Verb == "" {
		return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
	}
	return fmt.Sprintf("%s:%d: %s: %v", e.File, e.Line, e.Verb, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func (f *File) fault(in Instruction, err error) error {
	var have *Error
	if errors.As(err, &have) {
		return err
	}
	return &Error{File: cmp.Or(in.file, f.Name), Line: in.Line, Verb: cmp.Or(in.word, in.Verb), Err: err}
}

// Parse reads a Jailfile. The name is for messages. Every unknown verb and
// malformed line is in the error, not only the first.
func Parse(name string, r io.Reader) (*File, error) {
	p := newParser(name, r)
	for {
		text, line, ok := p.logicalLine()
		if !ok {
			break
		}
		p.instruction(text, line)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if len(p.file.Instructions) == 0 {
		return nil, fmt.Errorf("%s: no instructions: a Jailfile begins with FROM, for example `FROM scratch`", name)
	}
	return p.file, nil
}

type parser struct {
	file *File
	scan *bufio.Scanner
	line int
	errs []error
	over bool // a limit is passed: nothing more is read
}

func newParser(name string, r io.Reader) *parser {
	p := &parser{file: &File{Name: name}, scan: bufio.NewScanner(r)}
	p.scan.Buffer(nil, maxLine)
	return p
}

func (p *parser) physicalLine() (string, bool) {
	if p.over || !p.scan.Scan() {
		return "", false
	}
	p.line++
	if p.file.size += len(p.scan.Bytes()) + 1; p.file.size > maxRecipe {
		p.stop("the file has more than %d bytes: no recipe needs so many", maxRecipe)
		return "", false
	}
	return strings.TrimSuffix(p.scan.Text(), "\r"), true
}

// end tells all faults.
func (p *parser) end() error {
	err := p.scan.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("the line has more than %d bytes", maxLine)
	}
	if err != nil && !p.over {
		return &Error{File: p.file.Name, Line: p.line + 1, Err: err}
	}
	return errors.Join(p.errs...)
}

// stop is fail for what makes the rest not worth reading.
func (p *parser) stop(format string, args ...any) {
	p.over = true
	p.errs = append(p.errs, &Error{File: p.file.Name, Line: p.line, Err: fmt.Errorf(format, args...)})
}

func (p *parser) fail(line int, verb, format string, args ...any) {
	p.errs = append(p.errs, &Error{File: p.file.Name, Line: line, Verb: verb, Err: fmt.Errorf(format, args...)})
	if len(p.errs) == maxFaults && !p.over {
		p.stop("more than %d errors: the rest is not read", maxFaults)
	}
}

// logicalLine joins continued lines. Comment lines may stand between them.
func (p *parser) logicalLine() (text string, line int, ok bool) {
	var b strings.Builder
	continued := false
	for {
		s, more := p.physicalLine()
		trimmed := strings.TrimSpace(s)
		switch {
		case !more:
			if continued && !p.over {
				p.fail(line, "", "the file ends after a backslash: remove the backslash or add the rest")
			}
			return b.String(), line, continued
		case strings.HasPrefix(trimmed, "#"):
			continue
		case trimmed == "" && !continued:
			continue
		case trimmed == "":
			p.fail(p.line, "", "an empty line follows a backslash: remove one of them")
			return b.String(), line, true
		}
		if !continued {
			line = p.line
		}
		right := strings.TrimRight(s, " \t")
		if !strings.HasSuffix(right, `\`) {
			b.WriteString(s)
			return strings.TrimSpace(b.String()), line, true
		}
		b.WriteString(strings.TrimSuffix(right, `\`))
		if continued = true; b.Len() > maxLine {
			p.stop("the instruction has more than %d bytes", maxLine)
		}
	}
}

func (p *parser) instruction(text string, line int) {
	verb, rest := cutBlank(text)
	in := Instruction{Verb: strings.ToUpper(verb), Line: line}
	spec, known := verbs[in.Verb]
	if !known {
		p.fail(line, "", "unknown instruction %q%s", verb, suggest(in.Verb, verbNames()))
		p.skipHeredoc(rest)
		return
	}
	in.Text = rest
	if spec.flags != nil {
		in.Flags, in.Text = p.flags(in, rest, spec.flags)
	}
	if spec.heredoc {
		p.heredoc(&in)
	}
	if in.Verb == "COPY" || in.Verb == "ADD" {
		p.texts(&in)
	}
	if in.Text == "" && in.Heredoc == nil && !spec.empty {
		p.fail(line, in.Verb, "missing argument: write %s", spec.usage)
		return
	}
	p.file.Instructions = append(p.file.Instructions, in)
}

// flags takes the leading --name=value words.
func (p *parser) flags(in Instruction, rest string, allowed []string) ([]Flag, string) {
	var flags []Flag
	for strings.HasPrefix(rest, "--") {
		word, after := cutBlank(rest)
		name, value, has := strings.Cut(word[2:], "=")
		switch {
		case !slices.Contains(allowed, name):
			p.fail(in.Line, in.Verb, "unknown option --%s%s", name, choices("it takes", prefixed("--", allowed)))
		case !has && isSwitch(name):
			flags = append(flags, Flag{name, "true"})
		case !has || value == "":
			p.fail(in.Line, in.Verb, "--%s needs a value: write --%s=VALUE", name, name)
		default:
			flags = append(flags, Flag{name, value})
		}
		rest = after
	}
	return flags, rest
}

// cutBlank takes the first word.
func cutBlank(s string) (word, rest string) {
	s = strings.TrimSpace(s)
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

var heredocWord = regexp.MustCompile(`(?:^|\s)<<(-?)(['"]?)([A-Za-z_][A-Za-z0-9_]*)(['"]?)(?:\s|$)`)

// heredoc reads the body of a <<WORD. Where the arguments are nothing else
// the body is theirs; in a RUN with a command before it the shell gets both.
func (p *parser) heredoc(in *Instruction) {
	m := heredocWord.FindStringSubmatch(in.Text)
	if m == nil || m[2] != m[4] {
		return
	}
	body, ok := p.body(m[3], m[1] == "-")
	if !ok && !p.over {
		p.fail(in.Line, in.Verb, "the text after <<%s has no end: add a line that says %s alone", m[3], m[3])
	}
	if strings.TrimSpace(m[0]) == in.Text {
		in.Text, in.Heredoc = "", &body
		return
	}
	in.Text += "\n" + body + m[3] + "\n"
}

// texts reads the bodies of the <<WORD that COPY and ADD name as sources.
func (p *parser) texts(in *Instruction) {
	for _, word := range strings.Fields(in.Text) {
		m := heredocWord.FindStringSubmatch(word)
		if m == nil || m[2] != m[4] {
			continue
		}
		body, ok := p.body(m[3], m[1] == "-")
		if !ok && !p.over {
			p.fail(in.Line, in.Verb, "the text after <<%s has no end: add a line that says %s alone", m[3], m[3])
		}
		in.heredocs = append(in.heredocs, heredoc{name: m[3], text: body, expand: m[2] == ""})
	}
}

func (p *parser) body(word string, stripTabs bool) (string, bool) {
	var b strings.Builder
	for {
		s, more := p.physicalLine()
		if !more {
			return b.String(), false
		}
		if stripTabs {
			s = strings.TrimLeft(s, "\t")
		}
		if s == word {
			return b.String(), true
		}
		b.WriteString(s + "\n")
	}
}

// skipHeredoc keeps a misspelt verb from making an error of each line of its text.
func (p *parser) skipHeredoc(rest string) {
	if m := heredocWord.FindStringSubmatch(rest); m != nil && m[2] == m[4] {
		p.body(m[3], m[1] == "-")
	}
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, prefix+n)
	}
	return out
}

func choices(lead string, names []string) string {
	if len(names) == 0 {
		return ": it takes no options"
	}
	return ": " + lead + " " + strings.Join(names, ", ")
}

// suggest names what was probably meant, or everything there is.
func suggest(word string, known []string) string {
	if best := nearest(word, known); best != "" {
		return fmt.Sprintf(": did you mean %s?", best)
	}
	return ": there are " + strings.Join(known, ", ")
}

// nearest is empty where nothing is near.
func nearest(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if len(word) > len(k)+distance {
			continue // a hostile file's line is long
		}
		if d := editDistance(word, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
