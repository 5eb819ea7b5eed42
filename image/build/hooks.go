package build

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// shellWords reads the arguments of the instructions that Bastille has too.
// Bastille lets the host's shell read them. Here no shell does: what only one
// understands is an error.
func (p *planner) shellWords(in Instruction) ([]string, error) {
	l, text, unset, err := plainLexer(p.lookup), in.Text, "", error(nil)
	if in.recipe {
		if text, err = p.recipeText(in); err != nil {
			return nil, err
		}
		l = &lexer{vars: p.recipeLookup(in), escape: '\\', container: true, charge: p.charge,
			unset: func(name string) { unset = name }}
	}
	list, operator, err := l.split(text)
	if err == nil {
		err = p.chargeWords(list)
	}
	switch {
	case err != nil:
		return nil, err
	case unset != "":
		return nil, undeclared(unset)
	case operator != 0:
		return nil, forHost(string(operator))
	case len(list) == 0:
		return nil, errUsage
	}
	return list, nil
}

func forHost(what string) error {
	return fmt.Errorf("%q is for a shell of the host, and none evaluates this line: quote it, or do it in the jail",
		what)
}

// recipeText is a line of a Bastillefile with its arguments replaced, without what
// a shell passes over at its end.
func (p *planner) recipeText(in Instruction) (string, error) {
	text, err := p.replace(in)
	if err != nil {
		return "", err
	}
	inShell(text, func(i int, quote byte) bool {
		begins := i == 0 || strings.IndexByte(" \t;", text[i-1]) >= 0
		switch {
		case text[i] == '#' && quote == 0 && begins:
			text = text[:i]
			return false
		case strings.HasPrefix(text[i:], "$("):
			err = forHost("$(")
		case text[i] == '`':
			err = forHost("`")
		}
		return err == nil
	})
	return strings.TrimRight(text, "; \t"), err
}

// inShell looks at each character that a shell would look at, with the quotes that
// it stands in.
func inShell(text string, look func(i int, quote byte) bool) {
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\\' && quote != '\'' {
			i++
			continue
		}
		if quote != '\'' && !look(i, quote) {
			return
		}
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		}
	}
}

// runsServices makes a Bastillefile's image do what Bastille's jails do: it runs
// /etc/rc, and lasts as long as what that has started.
func (p *planner) runsServices() {
	p.config.Config.Entrypoint, p.config.Config.Cmd = []string{"/bin/sh", "/etc/rc"}, nil
	p.config.Config.User, p.config.Config.WorkingDir = "", ""
	p.manifest.Wait = "all"
}

func (p *planner) warn(in Instruction, format string, a ...any) {
	p.warnings = append(p.warnings, p.file.fault(in, fmt.Errorf(format, a...)))
}

// inJail plans a command of root in the image, outside of any WORKDIR.
func (p *planner) inJail(in Instruction, env []string, argv, then []string) error {
	s, err := p.jailStep(in, env, argv)
	if err == nil {
		s.then = then
		p.add(in, s)
	}
	return err
}

func (p *planner) jailStep(in Instruction, env []string, argv []string) (*runStep, error) {
	if in.recipe {
		return &runStep{argv: argv, env: append(p.loginEnv(), env...), login: true}, nil
	}
	all, err := p.runEnv()
	return &runStep{argv: argv, env: append(all, env...), dir: "/"}, err
}

// loginEnv is what an image adds to the environment of a Bastillefile's commands:
// the arguments are no part of it.
func (p *planner) loginEnv() []string { return slices.Clone(p.vars) }

// pkg installs packages by the image's own pkg(8), and leaves no downloads.
func (p *planner) pkg(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.inJail(in, []string{"ASSUME_ALWAYS_YES=yes"}, append([]string{"pkg", "install", "-y"}, list...),
		[]string{"pkg", "clean", "-a", "-y", "-q"})
}

func (p *planner) sysrc(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.inJail(in, nil, append([]string{"sysrc"}, list...), nil)
}

// cp copies as cp(1) does: a directory itself, and with a final slash what is in
// it. Owners and modes are those of COPY.
func (p *planner) cp(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if list[0] == "-q" || list[0] == "--quiet" {
		list = list[1:]
	}
	if len(list) < 2 {
		return errUsage
	}
	n := len(list) - 1
	dest := path.Join("/", list[n])
	if n > 1 || strings.HasSuffix(list[n], "/") && dest != "/" {
		dest += "/"
	}
	return p.copyWhole(in, list[:n], dest)
}

func (p *planner) overlay(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.copyWhole(in, list, "/")
}

func (p *planner) copyWhole(in Instruction, list []string, dest string) error {
	for _, src := range list {
		if src == "/etc/resolv.conf" {
			p.warn(in, "each task gets the host's resolv.conf, so %s is left out", src)
			continue
		}
		if path.IsAbs(src) {
			return fmt.Errorf("%s is a file of the host: sources are relative to the recipe: write %s", src,
				strings.TrimLeft(src, "/"))
		}
		s := &copyStep{sources: []string{path.Join(escapeGlob(in.dir), src)}, dest: dest,
			whole: !strings.HasSuffix(src, "/"), into: len(list) > 1}
		p.add(in, s)
	}
	return nil
}
