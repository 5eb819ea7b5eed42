package build

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// scope is what the arguments of one Bastillefile are. Each file has its own: an
// INCLUDE hands over what its --arg names, and nothing comes back.
type scope struct {
	through  map[string]string // by the INCLUDE that it came by
	declared map[string]bool
	values   [][2]string // name and value, in the order of their ARG; none is empty
}

func newScope(through map[string]string) *scope {
	return &scope{through: through, declared: map[string]bool{}}
}

func (s *scope) value(name string) (string, bool) {
	i := slices.IndexFunc(s.values, func(v [2]string) bool { return v[0] == name })
	if i < 0 {
		return "", false
	}
	return s.values[i][1], true
}

// ofJails are what Bastille knows of a jail and no image can.
var ofJails = regexp.MustCompile(`\$\{(JAIL_(?:NAME|IP6?))\}`)

func isOfJails(name string) bool { return ofJails.MatchString("${" + name + "}") }

func errOfJails(found string) error {
	name := strings.Trim(found, "${}")
	return fmt.Errorf("%s is not known before a jail starts: give --build-arg %s=VALUE for one value in all jails, or "+
		"set it by a script of the image when the jail starts", found, name)
}

// replace puts the values of a Bastillefile's arguments into a line, before its
// quotes are read, one after the other: a value may name the arguments after it.
func (p *planner) replace(in Instruction) (string, error) {
	text, all := in.Text, p.arguments(in)
	if !strings.Contains(text, "${") {
		return text, nil
	}
	if err := p.charge(len(text) * len(all) / wordCost); err != nil { // each of them is looked for
		return "", err
	}
	for _, v := range all {
		old := "${" + v[0] + "}"
		n := strings.Count(text, old)
		if n == 0 {
			continue
		}
		size := len(text) + n*(len(v[1])-len(old))
		if err := errors.Join(fitsWord(size), p.charge(size)); err != nil {
			return "", err
		}
		text = strings.ReplaceAll(text, old, v[1])
	}
	if found := ofJails.FindString(text); found != "" {
		return "", errOfJails(found)
	}
	return text, nil
}

// arguments are those of the Bastillefile that an instruction stands in, after
// those that Bastille has by itself.
func (p *planner) arguments(in Instruction) (out [][2]string) {
	for _, name := range []string{"JAIL_IP", "JAIL_IP6", "JAIL_NAME"} {
		if v, ok := p.given[name]; ok {
			out = append(out, [2]string{name, v})
		}
	}
	return append(out, p.scopeOf(in).values...)
}

// scopeOf is the planner's own for what no file was read of.
func (p *planner) scopeOf(in Instruction) *scope {
	if in.scope != nil {
		return in.scope
	}
	if p.own == nil {
		p.own = newScope(nil)
	}
	return p.own
}

// argumentName is freer than a variable's name: ${php-version} is one.
var argumentName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// recipeArg is ARG of a Bastillefile: the first value that a name gets stays, and
// one without a value is not replaced.
func (p *planner) recipeArg(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	s := p.scopeOf(in)
	name, value, _ := strings.Cut(strings.Join(list, " "), "=")
	if !argumentName.MatchString(name) {
		return fmt.Errorf("%q is not a valid name of an argument", name)
	}
	if given, ok := s.through[name]; ok {
		value = given
	} else if given, ok := p.given[name]; ok {
		value = given
	}
	value = strings.ReplaceAll(value, `"`, "")
	p.declare(s, name)
	_, has := s.value(name)
	switch {
	case has:
	case value != "" && len(s.values) >= maxVariables:
		return fmt.Errorf("there are more than %d arguments", maxVariables)
	case value != "":
		s.values = append(s.values, [2]string{name, value})
	case in.Verb == "ARG+":
		s.values = append(s.values, [2]string{name, name}) // for what follows
		return mustHaveValue(name)
	default:
		p.warn(in, "%s has no value, so ${%s} is left as it is: give --build-arg %s=VALUE", name, name, name)
	}
	return nil
}

func mustHaveValue(name string) error {
	return fmt.Errorf("%s must have a value: give --build-arg %s=VALUE", name, name)
}

func (p *planner) declare(s *scope, name string) {
	s.declared[name] = true
	if p.declared == nil {
		p.declared = map[string]bool{}
	}
	p.declared[name] = true
}

// recipeLookup is for what is left when the arguments are replaced, which Bastille
// lets the host's environment say.
func (p *planner) recipeLookup(in Instruction) lookup {
	return func(name string) (string, error) {
		s := p.scopeOf(in)
		if v, ok := s.value(name); ok {
			return v, p.charge(len(v) + wordCost)
		}
		if s.declared[name] {
			return "", nil
		}
		return "", undeclared(name)
	}
}

func undeclared(name string) error {
	return fmt.Errorf("%s is not an argument of this file: declare it by ARG %s=VALUE before, or write \\$ for a "+
		"dollar sign", name, name)
}

// include plans another template in the place of INCLUDE, with arguments of its
// own.
func (p *planner) include(in Instruction) error {
	if in.fault != nil {
		return in.fault
	}
	if p.follow == nil {
		return errors.New("no context to include from")
	}
	list, err := p.instructionWords(in)
	if err != nil {
		return err
	}
	name, through, err := readInclude(in, list)
	if err != nil {
		return err
	}
	other, err := p.follow(in, name)
	if err != nil {
		return err
	}
	inner := newScope(through)
	for _, o := range other.Instructions {
		o.scope, o.through = inner, through
		if p.instruct(o); p.faults.enough {
			break
		}
	}
	return nil
}

// instructionWords are read as the file's kind has it.
func (p *planner) instructionWords(in Instruction) ([]string, error) {
	if in.recipe {
		return p.shellWords(in)
	}
	return p.words(in.Text)
}
