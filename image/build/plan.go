package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// planner evaluates a Jailfile before anything is built, so that a mistake in
// its last line does not cost the work of the lines before.
type planner struct {
	file     *File
	base     func(ref string, p ocispec.Platform) (*image.Image, error) // opens what FROM and --from name
	platform ocispec.Platform                                           // wanted; empty: the base's, or the host's
	// --target: a stage's name or number; empty: the last
	goal    string
	given   map[string]string                    // --build-arg
	secrets map[string]Secret                    // --secret
	permit  func(params map[string]string) error // decides what RUN may have; nil: nothing
	// accepted are parameters of jails that this program need not know
	accepted []string

	// follow reads what an INCLUDE names; nil: there is no context.
	follow func(in Instruction, name string) (*File, error)

	warnings []error
	told     map[string]bool // variables that are not set
	ctx      context.Context
	cost     int // bytes of what was evaluated
	faults   *faults
	own      *scope          // of the Bastillefile that is built
	declared map[string]bool // by ARGs of Bastillefiles

	in     Instruction        // that is being evaluated
	global map[string]*string // ARG before the first FROM
	stages []*stage
	needed []*stage // those that the image needs, in order; the image is the last
	*stage          // that is being evaluated
}

// planned is one instruction with the step that it asks for, nil where it only
// describes the image.
type planned struct {
	in   Instruction
	step step
}

func (p *planner) add(in Instruction, s step) { p.planned = append(p.planned, planned{in, s}) }

// charge counts what is evaluated: small words can become large, and few many.
func (p *planner) charge(bytes int) error {
	if p.cost += bytes; p.cost > maxEvaluated {
		return limitError{fmt.Errorf("with its variables replaced the recipe has more than %d bytes", maxEvaluated)}
	}
	if err := p.ctx.Err(); err != nil {
		return limitError{err}
	}
	return nil
}

// limitError ends the evaluation.
type limitError struct{ error }

func (e limitError) Unwrap() error { return e.error }

// lookup finds a variable; ENV goes before ARG.
func (p *planner) lookup(name string) (string, error) {
	v, err := p.find(name)
	if err == nil {
		err = p.charge(len(v) + wordCost)
	}
	return v, err
}

func (p *planner) find(name string) (string, error) {
	begin := name + "="
	for _, kv := range slices.Backward(p.vars) {
		if v, ok := strings.CutPrefix(kv, begin); ok {
			return v, nil
		}
	}
	v, declared := p.args[name]
	switch {
	case !declared:
		return "", fmt.Errorf("the variable %s is not known here: declare it with ARG or ENV before, write "+
			"${%s:-default}, or \\$ for a dollar sign", name, name)
	case v == nil:
		return "", fmt.Errorf("ARG %s has no value: give --build-arg %s=VALUE, or a default in the Jailfile", name,
			name)
	}
	return *v, nil
}

// list reads arguments in either form.
func (p *planner) list(text string) ([]string, error) {
	if !p.isJSON(text) {
		return p.words(text)
	}
	list, err := p.json(text)
	if err != nil {
		return nil, err
	}
	for i, w := range list {
		if list[i], err = p.substitute(w); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// isJSON reports whether arguments are in the JSON form. In a Containerfile what
// is no valid JSON is for the shell.
func (p *planner) isJSON(text string) bool {
	return isJSON(text) && (!p.in.container || json.Valid([]byte(text)))
}

// lexer reads words of the instruction that is being evaluated.
func (p *planner) lexer() *lexer { return p.lexerOf(p.in, p.lookup) }

func (p *planner) lexerOf(in Instruction, vars lookup) *lexer {
	l := plainLexer(vars)
	if in.container {
		l.container, l.charge = true, p.charge
		l.unset = func(name string) { p.warnUnset(in, name) }
	}
	if in.escape != 0 {
		l.escape = in.escape
	}
	return l
}

// warnUnset tells of a variable once.
func (p *planner) warnUnset(in Instruction, name string) {
	if !p.told[name] && len(p.told) < maxFaults {
		if p.told == nil {
			p.told = map[string]bool{}
		}
		p.told[name] = true
		p.warn(in, "the variable %s is not set here, so it is empty: declare it with ARG or ENV before", name)
	}
}

func (p *planner) substitute(text string) (string, error) { return p.lexer().substitute(text) }

// words are those of a text, with variables replaced.
func (p *planner) words(text string) ([]string, error) {
	list, err := p.lexer().words(text)
	if err != nil {
		return nil, err
	}
	return list, p.chargeWords(list)
}

func (p *planner) json(text string) ([]string, error) {
	list, err := jsonWords(text)
	if err != nil {
		return nil, err
	}
	return list, p.chargeWords(list)
}

func (p *planner) chargeWords(list []string) error {
	if len(list) > maxWords {
		return fmt.Errorf("there are more than %d words", maxWords)
	}
	return p.chargeAll(list)
}

func (p *planner) chargeAll(list []string) error {
	n := 0
	for _, w := range list {
		n += len(w) + wordCost
	}
	return p.charge(n)
}

// one reads an argument that must be one word. In a Containerfile a blank does
// not end it.
func (p *planner) one(in Instruction) (string, error) {
	if in.container {
		text, err := p.lexer().word(in.Text)
		return text, errors.Join(err, fitsWord(len(text)))
	}
	w, err := p.words(in.Text)
	if err == nil && len(w) != 1 {
		err = errUsage
	}
	if err != nil {
		return "", err
	}
	return w[0], nil
}

// pairs reads name=value words; both sides of = are kept as they are.
func (p *planner) pairs(in Instruction) ([][2]string, error) {
	if in.old {
		name, value := cutBlank(in.Text)
		value, err := p.lexer().word(value)
		return [][2]string{{name, value}}, err
	}
	list, err := p.words(in.Text)
	if err != nil {
		return nil, err
	}
	out := make([][2]string, 0, len(list))
	for _, w := range list {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q is not NAME=value: write %s", w, verbs[in.Verb].usage)
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

// hostOS is what an image from scratch is for unless it is told.
func hostOS() string {
	if runtime.GOOS == "linux" {
		return "linux"
	}
	return "freebsd"
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p *planner) arg(in Instruction) error {
	if in.recipe {
		return p.recipeArg(in)
	}
	list, err := p.words(in.Text)
	if err != nil {
		return err
	}
	for _, w := range list {
		name, value, has := strings.Cut(w, "=")
		if !envName.MatchString(name) {
			return fmt.Errorf("%q is not a valid variable name", name)
		}
		if given, ok := in.through[name]; ok {
			if value, err = p.substitute(given); err != nil {
				return err
			}
			has = true
		} else if given, ok := p.given[name]; ok {
			value, has = given, true
		}
		if in.Verb == "ARG+" && value == "" {
			return mustHaveValue(name)
		}
		if _, there := p.args[name]; !there && len(p.args) >= maxVariables {
			return fmt.Errorf("there are more than %d arguments", maxVariables)
		}
		known, predefined := p.predefined(name)
		switch {
		case has:
			p.args[name] = &value
		case predefined:
			p.args[name] = &known
		case in.container && p.global[name] != nil:
			p.args[name] = p.global[name]
		case p.args[name] == nil: // else it is one of before FROM
			p.args[name] = nil
		}
	}
	return nil
}

// predefined are the arguments that have their values by themselves.
func (p *planner) predefined(name string) (string, bool) {
	target, host := p.target(), ocispec.Platform{OS: hostOS(), Architecture: runtime.GOARCH}
	values := map[string]string{
		"TARGETPLATFORM": target.OS + "/" + target.Architecture, "TARGETOS": target.OS,
		"TARGETARCH": target.Architecture, "TARGETVARIANT": target.Variant, "BUILDVARIANT": "",
		"BUILDPLATFORM": host.OS + "/" + host.Architecture, "BUILDOS": host.OS, "BUILDARCH": host.Architecture,
	}
	v, ok := values[name]
	return v, ok
}

// target is the platform that is built for, before FROM as far as it is known.
func (p *planner) target() ocispec.Platform {
	if p.ready {
		return p.config.Platform
	}
	t := p.platform
	if t.OS == "" {
		t.OS = hostOS()
	}
	if t.Architecture == "" {
		t.Architecture = runtime.GOARCH
	}
	return t
}

func (p *planner) env(in Instruction) error {
	list, err := p.pairs(in)
	if err != nil {
		return err
	}
	for _, kv := range list {
		if !envName.MatchString(kv[0]) {
			return fmt.Errorf("%q is not a valid variable name", kv[0])
		}
		p.vars = slices.DeleteFunc(p.vars, func(have string) bool { return strings.HasPrefix(have, kv[0]+"=") })
		if len(p.vars) >= maxVariables {
			return fmt.Errorf("there are more than %d variables", maxVariables)
		}
		p.vars = append(p.vars, kv[0]+"="+kv[1])
	}
	return nil
}

func manySources(n int, dest string) error {
	return fmt.Errorf("there are %d sources: the destination must be a directory: write %s/", n, dest)
}

// inWorkdir makes a path of the image absolute; a final slash stays.
func (p *planner) inWorkdir(name string) string {
	slash := strings.HasSuffix(name, "/") || name == "." || strings.HasSuffix(name, "/.")
	out := path.Join("/", name)
	if !path.IsAbs(name) {
		out = path.Join("/", p.config.Config.WorkingDir, name)
	}
	if slash && out != "/" {
		out += "/"
	}
	return out
}

func (p *planner) run(in Instruction) error {
	env, err := p.runEnv()
	if err != nil {
		return err
	}
	s := &runStep{dir: p.config.Config.WorkingDir, user: p.config.Config.User, env: env, mayNeed: true}
	if in.container {
		s.proxies = p.givenProxies()
	}
	if err := p.runFlags(in, s); err != nil {
		return err
	}
	switch {
	case in.recipe:
		text, err := p.replace(in)
		if err != nil {
			return err
		}
		s = &runStep{argv: []string{"/bin/sh", "-c", text}, env: p.loginEnv(), login: true, mayNeed: true}
	case in.Heredoc != nil:
		s.argv = p.script(*in.Heredoc)
		if in.container && strings.HasPrefix(*in.Heredoc, "#!") {
			s.argv, s.script = []string{scriptPath}, *in.Heredoc
		}
	case p.isJSON(in.Text):
		list, err := p.json(in.Text)
		if err != nil && !strings.HasPrefix(in.Text, "[ ") { // `[ -x a ] && b` is a command of the shell
			return err
		}
		s.argv = list
	}
	if len(s.argv) == 0 {
		s.argv = p.shellForm(in.Text)
	}
	p.add(in, s)
	return nil
}

// defaultPath is the PATH of a RUN where the image sets none.
const defaultPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"

// runEnv is all that a RUN sees: PATH, the ARGs and the image's ENV. Nothing
// is of the host.
func (p *planner) runEnv() ([]string, error) {
	env := map[string]string{"PATH": defaultPath}
	maps.Copy(env, p.known())
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out, p.chargeAll(out)
}

// proxies are arguments that no ARG has to declare. They are in the environment
// of commands, and in nothing that is kept.
var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY",
	"no_proxy", "ALL_PROXY", "all_proxy"}

func (p *planner) givenProxies() (out []string) {
	for _, name := range proxies {
		if v, given := p.given[name]; given && p.args[name] == nil {
			out = append(out, name+"="+v)
		}
	}
	return out
}

// known are the ARGs and the image's ENV.
func (p *planner) known() map[string]string {
	out := make(map[string]string, len(p.args)+len(p.vars))
	for name, v := range p.args {
		if v != nil {
			out[name] = *v
		}
	}
	for _, kv := range p.vars {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

func (p *planner) workdir(in Instruction) error {
	dir, err := p.one(in)
	if err != nil {
		return err
	}
	p.config.Config.WorkingDir = path.Clean(p.inWorkdir(dir))
	p.add(in, &dirStep{p.config.Config.WorkingDir})
	return nil
}
