package build

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"

	docker "github.com/moby/buildkit/frontend/dockerfile/command"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Names of the recipes that other builders read.
const (
	ContainerFile = "Containerfile"
	DockerFile    = "Dockerfile"
)

// heredoc is a text that stands below the instruction that names it.
type heredoc struct {
	name, text string
	expand     bool // variables in it are replaced
}

// isContainerfile goes by a recipe's name: Containerfile, Dockerfile.web,
// web.containerfile.
func isContainerfile(name string) bool {
	base := strings.ToLower(filepath.Base(name))
	for _, known := range []string{"containerfile", "dockerfile"} {
		if base == known || strings.HasPrefix(base, known+".") || strings.HasSuffix(base, "."+known) {
			return true
		}
	}
	return false
}

// isContainerText tells a Containerfile by its name, or, where that says nothing,
// by its having no instruction that only a Jailfile has.
func isContainerText(name string, text []byte) bool {
	base := strings.ToLower(filepath.Base(name))
	if isContainerfile(base) {
		return true
	}
	if base == "jailfile" || strings.HasPrefix(base, "jailfile.") || strings.HasSuffix(base, ".jailfile") {
		return false
	}
	p := &containerParser{parser: newParser(name, nil)}
	if !p.fits(text) {
		return true
	}
	return !slices.ContainsFunc(p.nodes(text), func(n *dockerfile.Node) bool {
		verb := strings.ToUpper(n.Value)
		_, known := verbs[verb]
		return known && !ofDocker(verb)
	})
}

func ofDocker(verb string) bool {
	_, ok := docker.Commands[strings.ToLower(verb)]
	return ok
}

// ParseContainerfile reads a Containerfile or Dockerfile, by BuildKit's parser.
// The instructions that only a Jailfile has may stand in it too. The name is for
// messages. Every unknown instruction and malformed line is in the error.
func ParseContainerfile(name string, r io.Reader) (*File, error) {
	p := &containerParser{parser: newParser(name, nil)}
	text, err := io.ReadAll(io.LimitReader(r, maxRecipe+1))
	if err != nil {
		return nil, err
	}
	p.file.size, p.file.container = len(text), true
	if p.fits(text) {
		for _, n := range p.nodes(text) {
			p.instruction(n)
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	if len(p.file.Instructions) == 0 {
		return nil, &Error{File: name, Line: 1,
			Err: errors.New("no instructions: a Containerfile begins with FROM, for example `FROM scratch`")}
	}
	return p.file, nil
}

// containerParser makes instructions of the nodes of BuildKit's parser.
type containerParser struct {
	*parser
	escape byte
}

// fits refuses what BuildKit's parser would need much time for: it reads an
// instruction with all its lines before anybody can look at its size.
func (p *containerParser) fits(text []byte) bool {
	if len(text) > maxRecipe {
		p.stop("the file has more than %d bytes: no recipe needs so many", maxRecipe)
		return false
	}
	run := 0   // bytes of lines that continue each other
	texts := 0 // lines from the first << on, which it joins one by one
	for line := range bytes.Lines(text) {
		p.line++
		line = bytes.TrimSpace(line)
		if texts > 0 || bytes.Contains(line, []byte("<<")) {
			texts++
		}
		switch {
		case texts > maxTextLines:
			p.stop("more than %d lines from the first << on: put long texts into files and COPY them", maxTextLines)
		case len(line) >= bufio.MaxScanTokenSize-2:
			p.stop("the line has more than %d bytes", bufio.MaxScanTokenSize-2)
		case len(line) == 0 || line[0] == '#': // it ends no instruction
		case line[len(line)-1] == '\\' || line[len(line)-1] == '`':
			run += len(line)
		default:
			run = 0
		}
		if run > maxLine {
			p.stop("the instruction has more than %d bytes", maxLine)
		}
		if p.over {
			return false
		}
	}
	return true
}

// nodes are the instructions. A malformed one is told and taken out, so that the
// next fault is found too.
func (p *containerParser) nodes(text []byte) []*dockerfile.Node {
	for !p.over {
		result, err := dockerfile.Parse(bytes.NewReader(text))
		if err == nil {
			p.escape = byte(result.EscapeToken)
			p.notes(result, text)
			return result.AST.Children
		}
		var at *dockerfile.LocationError
		if !errors.As(err, &at) || len(at.Locations) == 0 || len(at.Locations[0]) == 0 {
			p.stop("%w", err)
			return nil
		}
		lines := at.Locations[0]
		first, last := max(1, lines[0].Start.Line), max(1, lines[len(lines)-1].End.Line)
		if strings.Contains(err.Error(), "file with no instructions") {
			return nil // or all were malformed
		}
		p.fail(first, "", "%s", plainFault(err))
		if isUnterminated(err) {
			return nil // all that follows is its text
		}
		left := blanked(text, first, last)
		if bytes.Equal(left, text) {
			return nil
		}
		text = left
	}
	return nil
}

// plainFault is what BuildKit's parser says, with a hint where it has none.
func plainFault(err error) string {
	text := err.Error()
	if isUnterminated(err) {
		text += ": add a line that has only the word behind <<"
	}
	return text
}

func isUnterminated(err error) bool { return strings.HasPrefix(err.Error(), "unterminated heredoc") }

// blanked is a text with empty lines in the place of some.
func blanked(text []byte, first, last int) []byte {
	var out bytes.Buffer
	n := 0
	for line := range bytes.Lines(text) {
		if n++; n >= first && n <= last {
			line = []byte("\n")
		}
		out.Write(line)
	}
	return out.Bytes()
}

// notes are what a builder would warn of.
func (p *containerParser) notes(r *dockerfile.Result, text []byte) {
	for _, w := range r.Warnings {
		line := 1
		if w.Location != nil {
			line = w.Location.Start.Line
		}
		p.note(line, "an empty line within an instruction: remove it, or the backslash before it")
	}
	syntax, _, at, ok := dockerfile.DetectSyntax(text)
	name := strings.TrimPrefix(syntax, "docker.io/")
	if ok && !strings.HasPrefix(name, "docker/dockerfile") {
		line := 1
		if len(at) > 0 {
			line = at[0].Start.Line
		}
		p.note(line, "the frontend %s is not used: the file is read as a Dockerfile", syntax)
	}
}

func (p *parser) note(line int, text string, a ...any) {
	p.file.notes = append(p.file.notes, note{line, text, a})
}

func (p *containerParser) instruction(n *dockerfile.Node) {
	text := strings.TrimSpace(n.Original)
	in := Instruction{Verb: strings.ToUpper(n.Value), Line: n.StartLine, container: true, escape: p.escape,
		Text: strings.TrimSpace(text[min(len(n.Value), len(text)):])}
	spec, known := verbs[in.Verb]
	switch {
	case len(text) > maxLine:
		p.fail(in.Line, in.Verb, "the instruction has more than %d bytes", maxLine)
		return
	case !known:
		p.fail(in.Line, "", "unknown instruction: %.100s%s", n.Value, didYouMean(in.Verb, verbNames()))
		return
	}
	if len(n.Flags) > 0 && (ofDocker(in.Verb) || spec.flags != nil) {
		in.Text = afterFlags(in.Text, p.escape)
		in.Flags = p.containerFlags(in, n.Flags, spec.flags)
	}
	p.heredocs(&in, n)
	if in.Verb == "ENV" || in.Verb == "LABEL" {
		in.old = n.Next != nil && n.Next.Next != nil && n.Next.Next.Next != nil && n.Next.Next.Next.Value == ""
	}
	if in.Text == "" && in.Heredoc == nil && !spec.empty {
		p.fail(in.Line, in.Verb, "missing argument: write %s", spec.usage)
		return
	}
	p.file.Instructions = append(p.file.Instructions, in)
}

// containerFlags are the --name=value that stand before the arguments.
func (p *containerParser) containerFlags(in Instruction, list, allowed []string) (out []Flag) {
	for _, word := range list {
		name, value, has := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		switch {
		case !slices.Contains(allowed, name):
			p.fail(in.Line, in.Verb, "unknown flag: --%s%s", name, meantFlag(name, allowed))
		case !has && isSwitch(name):
			out = append(out, Flag{name, "true"})
		case !has || value == "":
			p.fail(in.Line, in.Verb, "--%s needs a value: write --%s=VALUE", name, name)
		default:
			out = append(out, Flag{name, value})
		}
	}
	return out
}

// switches are options that need no value.
var switches = []string{"link", "parents", "keep-git-dir", "unpack"}

func isSwitch(name string) bool { return slices.Contains(switches, name) }

func meantFlag(name string, allowed []string) string {
	if len(allowed) == 0 {
		return ": it takes none"
	}
	return didYouMean("--"+name, prefixed("--", allowed))
}

// didYouMean is suggest in the words of other builders.
func didYouMean(word string, known []string) string {
	if best := nearest(word, known); best != "" {
		return " (did you mean " + best + "?)"
	}
	return " (there are " + strings.Join(known, ", ") + ")"
}

// afterFlags passes over the --name=value words, which may be quoted.
func afterFlags(text string, escape byte) string {
	for strings.HasPrefix(text, "--") {
		n := wordEnd(text, escape)
		end := text[:n] == "--"
		if text = strings.TrimSpace(text[n:]); end {
			break
		}
	}
	return text
}

func wordEnd(text string, escape byte) int {
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == escape:
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote == 0 && strings.IndexByte(" \t\v\f\r\n", c) >= 0:
			return i
		}
	}
	return len(text)
}

// heredocs gives an instruction the texts below it. In a RUN that has a command
// too they are the shell's.
func (p *containerParser) heredocs(in *Instruction, n *dockerfile.Node) {
	if in.Verb == "USAGE" && heredocWord.MatchString(in.Text) {
		p.fail(in.Line, in.Verb, "a text after << is for a Jailfile: write it in one line, or rename the file")
	}
	if in.Verb == "ONBUILD" && n.Next != nil && len(n.Heredocs) > 0 {
		p.fail(in.Line, in.Verb, "a text after << is not supported in ONBUILD")
		return
	}
	for _, h := range n.Heredocs {
		text := h.Content
		if h.Chomp && (in.Verb != "RUN" || isHeredocAlone(in.Text)) {
			text = dockerfile.ChompHeredocContent(text)
		}
		in.heredocs = append(in.heredocs, heredoc{h.Name, text, h.Expand})
	}
	if in.Verb != "RUN" || len(in.heredocs) == 0 {
		return
	}
	if len(in.heredocs) == 1 && isHeredocAlone(in.Text) {
		in.Text, in.Heredoc, in.heredocs = "", &in.heredocs[0].text, nil
		return
	}
	for _, h := range in.heredocs {
		in.Text += "\n" + h.text + h.name
	}
	in.Text, in.heredocs = in.Text+"\n", nil
}

// isHeredocAlone tells a <<WORD without a command.
func isHeredocAlone(text string) bool {
	h, err := dockerfile.ParseHeredoc(text)
	return err == nil && h != nil && !strings.ContainsAny(text, " \t")
}
