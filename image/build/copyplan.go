package build

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	dockerfile "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
)

// copy is COPY and ADD.
func (p *planner) copy(in Instruction) error {
	list, err := p.list(in.Text)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return errUsage
	}
	n := len(list) - 1
	s := &copyStep{dest: p.inWorkdir(list[n]), unpack: in.Verb == "ADD"}
	if n > 1 && !strings.HasSuffix(s.dest, "/") {
		if !in.container {
			return manySources(n, list[n])
		}
		s.dest += "/"
	}
	for _, src := range list[:n] {
		if err := p.copySource(s, in, src); err != nil {
			return err
		}
	}
	for _, f := range in.Flags {
		if err := p.copyFlag(s, in, f); err != nil {
			return err
		}
	}
	p.add(in, s)
	return nil
}

var ofGit = regexp.MustCompile(`^(git@|git://|ssh://|https?://[^#]+\.git(#|$))`)

// copySource takes a text below the instruction, or a name.
func (p *planner) copySource(s *copyStep, in Instruction, src string) error {
	if h, err := dockerfile.ParseHeredoc(src); err == nil && h != nil && len(in.heredocs) > 0 {
		return p.copyText(s, in, h.Name)
	}
	switch {
	case in.Verb == "ADD" && ofGit.MatchString(src):
		return fmt.Errorf("%s: git is not supported: clone it into the context, or in a RUN", src)
	case in.Verb == "ADD" && isRemote(src):
		return p.copyRemote(s, in, src)
	case strings.Contains(src, "://"):
		return fmt.Errorf("%s: nothing is fetched over the network: put the file into the context, or fetch it in a "+
			"RUN", src)
	}
	if in.container {
		src = strings.TrimLeft(src, "/")
		if src == "" {
			src = "."
		}
	}
	s.sources = append(s.sources, src)
	return nil
}

func (p *planner) copyText(s *copyStep, in Instruction, name string) error {
	for _, h := range in.heredocs {
		if h.name != name {
			continue
		}
		if h.expand {
			l := p.lexer()
			l.raw = true
			text, err := l.word(h.text)
			if err = errors.Join(err, p.charge(len(text))); err != nil {
				return fmt.Errorf("<<%s: %w", name, err)
			}
			h.text = text
		}
		s.texts = append(s.texts, text{h.name, h.text})
		return nil
	}
	return fmt.Errorf("<<%s has no text", name)
}

func isNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 32)
	return err == nil
}

func (p *planner) copyFlag(s *copyStep, in Instruction, f Flag) (err error) {
	if f.Name == "from" {
		if s.from, err = p.origin(f.Value); err != nil {
			return fmt.Errorf("--from=%s: %w", f.Value, err)
		}
		return nil
	}
	value, err := p.substitute(f.Value)
	if err != nil {
		return fmt.Errorf("--%s: %w", f.Name, err)
	}
	on := false
	if isSwitch(f.Name) {
		if on, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("--%s=%s: want true or false", f.Name, value)
		}
	}
	switch f.Name {
	case "chown":
		if s.chown = value; in.container && isNumber(value) {
			s.chown += ":" + value // it is its own group, whatever passwd says
		}
	case "chmod":
		mode, err := strconv.ParseUint(value, 8, 12)
		if err != nil {
			return fmt.Errorf("--chmod=%s: want an octal mode such as 0755", value)
		}
		s.mode = new(int64)
		*s.mode = int64(mode)
	case "exclude":
		_, err = patternmatcher.New([]string{value})
		if s.exclude = append(s.exclude, value); len(s.exclude) > maxExcluded || len(value) > maxIgnorePattern {
			err = fmt.Errorf("more than %d patterns, or of more than %d bytes", maxExcluded, maxIgnorePattern)
		}
	case "parents":
		s.parents = on
	case "unpack":
		s.unpack = on
	case "checksum":
		if len(s.remotes) != 1 {
			err = errors.New("it is for one file that is fetched")
		}
	case "keep-git-dir":
		err = errors.New("git is not supported")
	case "link": // a layer depends on nothing but its files here, too
	}
	if err != nil {
		return fmt.Errorf("--%s=%s: %w", f.Name, value, err)
	}
	return nil
}
