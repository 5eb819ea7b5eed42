package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// stage is one FROM with what follows it: an image of its own, of which the
// last, or the target, is what is built.
type stage struct {
	index    int
	name     string // of AS, in lower case; empty without
	from     Instruction
	ref      string // what FROM names
	platform ocispec.Platform
	body     []Instruction
	parent   *stage       // where ref is an earlier stage
	base     *image.Image // nil for scratch, and with a parent

	args     map[string]*string
	vars     []string // ENV, in order, NAME=value
	config   ocispec.Image
	manifest image.Manifest
	docker   image.DockerConfig
	exposed  []image.Port // by EXPOSE
	cmdSet   bool
	planned  []planned
	ready    bool // its FROM is evaluated
}

func (s *stage) title() string {
	if s.name != "" {
		return s.name
	}
	return strconv.Itoa(s.index)
}

var (
	stageName = regexp.MustCompile(`^[a-z][a-z0-9_.-]*$`)
	errFirst  = errors.New("the first instruction must be FROM (only ARG may stand before it): write `FROM scratch` " +
		"for an empty beginning")
)

// plan evaluates the instructions of all stages that the image needs, and names
// every one that is wrong.
func (p *planner) plan(ctx context.Context) error {
	p.ctx = ctx
	for _, n := range p.file.notes {
		p.warn(Instruction{Line: n.line}, n.text, n.args...)
	}
	err := p.divide()
	if err == nil {
		err = p.choose()
	}
	if err != nil {
		return err
	}
	p.faults = &faults{}
	for _, s := range p.needed {
		if s.parent != nil && !s.parent.ready {
			continue // its fault is told
		}
		p.stage = s
		p.faults.add(p.evaluate(s.from))
		if !s.ready {
			continue // all that follows would only repeat it
		}
		for _, in := range s.body {
			if p.instruct(in); p.faults.enough {
				return errors.Join(p.faults.list...)
			}
		}
		s.planned = p.serve(s.planned)
	}
	if p.file.bastille {
		p.runsServices()
	}
	p.faults.add(p.undeclared())
	return errors.Join(p.faults.list...)
}

// hidden are the instructions that an image's history does not tell.
var hidden = []string{"ARG", "ARG+", "INCLUDE", "TEMPLATE"}

// instruct evaluates an instruction, and those that it includes.
func (p *planner) instruct(in Instruction) {
	n := len(p.planned)
	p.faults.add(p.evaluate(in))
	if len(p.planned) == n && !slices.Contains(hidden, in.Verb) {
		p.planned = append(p.planned, planned{in: in})
	}
}

// faults are told together, as far as somebody may read them.
type faults struct {
	list   []error
	enough bool
}

func (f *faults) add(err error) {
	var limit limitError
	switch {
	case err == nil || f.enough:
		return
	case errors.As(err, &limit):
		f.enough = true
	case len(f.list) == maxFaults:
		f.enough, err = true, fmt.Errorf("more than %d errors: the rest is omitted", maxFaults)
	}
	f.list = append(f.list, err)
}

// undeclared names the --build-arg that no ARG takes.
func (p *planner) undeclared() error {
	declared := maps.Clone(p.global)
	for _, in := range p.file.Instructions {
		if in.Verb != "ARG" && in.Verb != "ARG+" || in.recipe {
			continue
		}
		list, err := p.lexerOf(in, func(string) (string, error) { return "", nil }).words(in.Text)
		if err != nil {
			return nil // told already, or of a stage that is not needed
		}
		for _, w := range list {
			name, _, _ := strings.Cut(w, "=")
			declared[name] = nil
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.given)) {
		_, ok := declared[name]
		ok = ok || p.declared[name] || p.file.bastille && isOfJails(name)
		switch {
		case ok || p.file.container && slices.Contains(proxies, name):
		case p.file.container: // as other builders do
			p.warnings = append(p.warnings, fmt.Errorf("%s: --build-arg %s is not used: no ARG declares it",
				p.file.Name, name))
		default:
			errs = append(errs, fmt.Errorf("%s: --build-arg %s: no ARG declares it: add `ARG %s`", p.file.Name, name,
				name))
		}
	}
	return errors.Join(errs...)
}

// divide makes the stages, with what their FROM names.
func (p *planner) divide() error {
	p.stage = &stage{args: map[string]*string{}, manifest: image.Manifest{SchemaVersion: 1}}
	faults := &faults{}
	for _, in := range p.file.Instructions {
		switch {
		case faults.enough:
		case in.Verb == "FROM":
			if p.global == nil {
				p.global = p.args
			}
			s, err := p.newStage(in)
			if err != nil {
				faults.add(p.file.fault(in, err))
			}
			p.stages = append(p.stages, s)
		case len(p.stages) > 0:
			s := p.stages[len(p.stages)-1]
			s.body = append(s.body, in)
		case in.Verb == "ARG":
			faults.add(p.evaluate(in))
		default:
			faults.add(p.file.fault(in, errFirst))
			return errors.Join(faults.list...)
		}
	}
	if len(p.stages) == 0 {
		faults.add(fmt.Errorf("%s: missing FROM: write `FROM scratch` for an empty beginning", p.file.Name))
	}
	return errors.Join(faults.list...)
}

func (p *planner) newStage(in Instruction) (*stage, error) {
	s := &stage{index: len(p.stages), from: in, platform: p.platform, manifest: image.Manifest{SchemaVersion: 1}}
	list, err := p.lexerOf(in, p.globalLookup).words(in.Text)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("the name of the base, %s, is empty: give the ARG a default, or --build-arg", in.Text)
	}
	if err == nil && len(list) != 1 && (len(list) != 3 || !strings.EqualFold(list[1], "AS")) {
		err = fmt.Errorf("invalid argument %q: write %s", in.Text, verbs["FROM"].usage)
	}
	if err != nil {
		return s, err
	}
	if s.ref = list[0]; s.ref != "scratch" {
		s.parent = p.stageNamed(s.ref)
	}
	if len(list) == 3 {
		s.name = strings.ToLower(list[2])
		switch {
		case !stageName.MatchString(s.name) || s.name == "scratch":
			return s, fmt.Errorf("%q is not a valid name of a stage: write a letter, then letters, digits and _ . -",
				list[2])
		case p.stageNamed(s.name) != nil:
			return s, fmt.Errorf("stage %s already exists", s.name)
		}
	}
	for _, f := range in.Flags {
		text, err := p.lexerOf(in, p.globalLookup).substitute(f.Value)
		if err != nil {
			return s, fmt.Errorf("--platform: %w", err)
		}
		if text == "" && in.container {
			continue // of a variable
		}
		if s.platform, err = image.ParsePlatform(text); err != nil {
			return s, fmt.Errorf("--platform: %w", err)
		}
	}
	return s, nil
}

// globalLookup is for FROM, which knows the ARGs before the first of them.
func (p *planner) globalLookup(name string) (string, error) {
	if v := p.global[name]; v != nil {
		return *v, p.charge(len(*v) + wordCost)
	}
	if v, ok := p.predefined(name); ok {
		return v, nil
	}
	return "", fmt.Errorf("the variable %s has no value here: FROM knows the ARGs that stand before the first FROM",
		name)
}

// stageNamed is nil where there is none so far.
func (p *planner) stageNamed(name string) *stage {
	i := slices.IndexFunc(p.stages, func(s *stage) bool { return s.name != "" && s.name == strings.ToLower(name) })
	if i < 0 {
		return nil
	}
	return p.stages[i]
}

// stageBefore finds what --from means: a name or a number of an earlier stage.
func (p *planner) stageBefore(s *stage, ref string) *stage {
	if n, err := strconv.Atoi(ref); err == nil && n >= 0 && n < s.index {
		return p.stages[n]
	}
	if found := p.stageNamed(ref); found != nil && found.index < s.index {
		return found
	}
	return nil
}

// choose finds the stages that the image needs; the others are not built.
func (p *planner) choose() error {
	goal := p.stages[len(p.stages)-1]
	if p.goal != "" {
		n, err := strconv.Atoi(p.goal)
		switch {
		case err == nil && n >= 0 && n < len(p.stages):
			goal = p.stages[n]
		case p.stageNamed(p.goal) != nil:
			goal = p.stageNamed(p.goal)
		default:
			var have []string
			for _, s := range p.stages {
				title := strconv.Itoa(s.index)
				if s.name != "" {
					title += " (" + s.name + ")"
				}
				have = append(have, title)
			}
			return fmt.Errorf("%s: no such stage %q; the stages are %s", p.file.Name, p.goal, strings.Join(have, ", "))
		}
	}
	needed := map[*stage]bool{}
	var need func(s *stage)
	need = func(s *stage) {
		if s == nil || needed[s] {
			return
		}
		needed[s] = true
		need(s.parent)
		for _, in := range s.body {
			for _, f := range in.Flags {
				if f.Name == "from" {
					need(p.stageBefore(s, f.Value))
				}
				if f.Name == "mount" {
					need(p.stageOfMount(s, f.Value))
				}
			}
		}
	}
	need(goal)
	for _, s := range p.stages {
		if needed[s] {
			p.needed = append(p.needed, s)
		}
	}
	return nil
}

// stageOfMount is nil where a --mount names no stage.
func (p *planner) stageOfMount(s *stage, value string) *stage {
	opts, err := readMountOptions(value)
	if err != nil || opts["from"] == "" {
		return nil // which is told when it is evaluated
	}
	return p.stageBefore(s, opts["from"])
}

// from begins a stage.
func (p *planner) from(Instruction) error {
	s := p.stage
	s.args = maps.Clone(p.global)
	switch {
	case s.parent != nil:
		p.inherit(s.parent.config, s.parent.manifest)
		s.vars, s.docker, s.exposed = slices.Clone(s.parent.vars), s.parent.docker, slices.Clip(s.parent.exposed)
		s.cmdSet = s.from.container && s.parent.cmdSet
	case s.ref == "scratch":
		s.config.Platform = s.platform
		if s.config.OS == "" {
			s.config.OS = hostOS()
		}
		if s.config.Architecture == "" {
			s.config.Architecture = runtime.GOARCH
		}
	default:
		if err := p.fromImage(s.ref); err != nil {
			return err
		}
	}
	if s.from.container {
		p.asContainer()
	}
	s.config.RootFS.Type = "layers"
	s.ready = true
	triggers := s.docker.OnBuild
	s.docker.OnBuild = nil
	if err := p.triggers(triggers); err != nil {
		return err
	}
	return p.charge((len(s.args) + len(s.vars) + len(s.config.Config.Labels)) * wordCost)
}

// containerPath is the PATH that other builders give an image without one.
const containerPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// asContainer begins a stage as other builders do: an ARG before the first FROM is
// not known unless the stage declares it too, and there is a PATH.
func (p *planner) asContainer() {
	p.args = map[string]*string{}
	if !slices.ContainsFunc(p.vars, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		p.vars = append([]string{containerPath}, p.vars...)
	}
}

// fromImage inherits everything of the base, its requests included: what the
// base needs does not vanish by building on it.
func (p *planner) fromImage(ref string) error {
	img, err := p.base(ref, p.stage.platform)
	if err != nil {
		return err
	}
	p.stage.base, p.stage.docker = img, img.Docker
	m := *img.Manifest
	if _, described := img.Config.Config.Labels[image.ManifestLabel]; !described {
		m.Ports = nil // what is only exposed stays so
	}
	p.inherit(img.Config, m)
	p.vars = slices.Clone(img.Config.Config.Env)
	if len(p.config.History) == 0 {
		for range img.Layers {
			p.config.History = append(p.config.History, ocispec.History{CreatedBy: "FROM " + path.Base(ref)})
		}
	}
	return nil
}

func (p *planner) inherit(c ocispec.Image, m image.Manifest) {
	p.config, p.manifest = c, m
	p.config.Config.Labels = maps.Clone(c.Config.Labels)
	p.config.Config.ExposedPorts = maps.Clone(c.Config.ExposedPorts)
	p.config.Config.Volumes = maps.Clone(c.Config.Volumes)
}

// origin finds the stage or the image that --from names.
func (p *planner) origin(ref string) (*origin, error) {
	if strings.Contains(ref, "$") {
		return nil, errors.New("variables are not supported here: name a stage or an image")
	}
	if s := p.stageBefore(p.stage, ref); s != nil {
		return &origin{stage: s}, nil
	}
	if ref == p.stage.name || ref == strconv.Itoa(p.stage.index) {
		return nil, errors.New("a stage cannot copy from itself")
	}
	if p.in.ofBase {
		if name, _, err := placeOf(ref); err != nil || isPath(name) {
			return nil, errors.Join(errors.New("an ONBUILD of the base reads no path of the host: write it in the "+
				"recipe"), err)
		}
		ref = registryPrefix + strings.TrimPrefix(ref, registryPrefix)
	}
	img, err := p.base(ref, p.platform)
	if err != nil {
		return nil, fmt.Errorf("no earlier stage has this name, and as an image: %w", err)
	}
	return &origin{image: img}, nil
}
