package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/signals"
)

func (p *planner) user(in Instruction) (err error) {
	p.config.Config.User, err = p.one(in)
	return err
}

func (p *planner) entrypoint(in Instruction) error {
	list, err := p.command(in)
	if err != nil {
		return err
	}
	p.config.Config.Entrypoint = list
	if !p.cmdSet {
		p.config.Config.Cmd = nil // the base's arguments were for the base's program
	}
	return nil
}

func (p *planner) cmd(in Instruction) error {
	list, err := p.command(in)
	p.config.Config.Cmd, p.cmdSet = list, true
	return err
}

func (p *planner) label(in Instruction) error {
	list, err := p.pairs(in)
	if err != nil {
		return err
	}
	for _, kv := range list {
		if kv[0] == image.ManifestLabel {
			return fmt.Errorf("%s is written by freejail: use PORT, PARAM, DEVFS, ALLOW and the like", kv[0])
		}
		if allow, is := strings.CutPrefix(kv[0], "org.freebsd.jail.allow."); is {
			if err := p.mayAskFor("allow." + allow); err != nil {
				return fmt.Errorf("%s: %w", kv[0], err)
			}
		}
		p.setLabel(kv[0], kv[1])
	}
	return nil
}

func (p *planner) setLabel(key, value string) {
	if p.config.Config.Labels == nil {
		p.config.Config.Labels = map[string]string{}
	}
	p.config.Config.Labels[key] = value
}

// head reads n fixed words and the options after them.
func (p *planner) head(in Instruction, n int, keys, flags []string) ([]string, map[string]string, error) {
	list, err := p.words(in.Text)
	if err != nil {
		return nil, nil, err
	}
	if len(list) < n {
		return nil, nil, errUsage
	}
	opts, err := options(list[n:], keys, flags)
	return list[:n], opts, err
}

func duration(opts map[string]string, key string) (image.Duration, error) {
	text, ok := opts[key]
	if !ok {
		return 0, nil
	}
	var d image.Duration
	if err := d.UnmarshalText([]byte(text)); err != nil || d == 0 {
		return 0, fmt.Errorf("%s=%s: not a valid duration (for example 500ms, 2s or 1m)", key, text)
	}
	return d, nil
}

func (p *planner) stopSignal(in Instruction) error {
	if in.container && len(strings.Fields(in.Text)) == 1 {
		signal, err := p.one(in)
		if err == nil {
			err = (&image.Manifest{SchemaVersion: 1, Stop: image.Stop{Signal: signal}}).Validate()
		}
		p.config.Config.StopSignal = signal
		return err
	}
	w, opts, err := p.head(in, 1, []string{"timeout"}, nil)
	if err != nil {
		return err
	}
	if p.manifest.Stop.Timeout, err = duration(opts, "timeout"); err != nil {
		return err
	}
	if _, err := signals.Parse(w[0], p.config.OS); err != nil {
		return err
	}
	p.config.Config.StopSignal, p.manifest.Stop.Signal = w[0], w[0]
	return nil
}

func (p *planner) name(in Instruction) (err error) {
	p.manifest.Name, err = p.one(in)
	return err
}

func (p *planner) summary(in Instruction) error {
	w, err := p.words(in.Text)
	p.manifest.Summary = strings.Join(w, " ")
	return err
}

// usageText is Markdown, where a dollar sign is only that.
func (p *planner) usageText(in Instruction) error {
	p.manifest.Usage = in.Text
	if in.Heredoc != nil {
		p.manifest.Usage = strings.TrimSpace(*in.Heredoc) + "\n"
	}
	return nil
}

func (p *planner) port(in Instruction) error {
	w, opts, err := p.head(in, 2, []string{"service", "tags", "check", "interval", "timeout", "description"}, nil)
	if err != nil {
		return err
	}
	number, protocol, _ := strings.Cut(w[1], "/")
	if protocol == "" {
		protocol = "tcp"
	}
	out := image.Port{Name: w[0], Protocol: protocol, Description: opts["description"]}
	if out.Port, err = strconv.Atoi(number); err != nil {
		return fmt.Errorf("%q is not a valid port (for example 8080/tcp)", w[1])
	}
	if out.Service, err = service(w[0], opts); err != nil {
		return err
	}
	p.addPort(out)
	return nil
}

func (p *planner) addPort(out image.Port) {
	for _, old := range p.manifest.Ports {
		if old.Name == out.Name { // a base's, perhaps with another number
			delete(p.config.Config.ExposedPorts, fmt.Sprintf("%d/%s", old.Port, old.Protocol))
		}
	}
	p.manifest.Ports = replace(p.manifest.Ports, out, func(o image.Port) bool { return o.Name == out.Name })
	if p.config.Config.ExposedPorts == nil {
		p.config.Config.ExposedPorts = map[string]struct{}{}
	}
	p.config.Config.ExposedPorts[fmt.Sprintf("%d/%s", out.Port, out.Protocol)] = struct{}{}
}

// service is nil where no option speaks of one; its name is the port's unless
// it is given.
func service(port string, opts map[string]string) (*image.Service, error) {
	s := &image.Service{Name: opts["service"]}
	_, named := opts["service"]
	if tags := opts["tags"]; tags != "" {
		s.Tags = strings.Split(tags, ",")
	}
	check, has := opts["check"]
	for _, needs := range []string{"interval", "timeout"} {
		if _, given := opts[needs]; given && !has {
			return nil, fmt.Errorf("%s= belongs to a check: add check=http:/path or check=tcp", needs)
		}
	}
	if !has && !named && len(s.Tags) == 0 {
		return nil, nil
	}
	if s.Name == "" {
		s.Name = port
	}
	if !has {
		return s, nil
	}
	kind, p, _ := strings.Cut(check, ":")
	if kind != "tcp" && kind != "http" || kind == "http" && p == "" {
		return nil, fmt.Errorf("check=%s: write check=http:/path or check=tcp", check)
	}
	s.Check = &image.Check{Type: kind, Path: p}
	var err error
	if s.Check.Interval, err = duration(opts, "interval"); err != nil {
		return nil, err
	}
	s.Check.Timeout, err = duration(opts, "timeout")
	return s, err
}

// replace puts v in the place of the entry that it overrides, a base's for
// example, or at the end.
func replace[T any](list []T, v T, same func(T) bool) []T {
	list = slices.Clone(list)
	if i := slices.IndexFunc(list, same); i >= 0 {
		list[i] = v
		return list
	}
	return append(list, v)
}

func (p *planner) param(in Instruction) error {
	w, opts, err := p.head(in, 1, []string{"default", "pattern", "description"}, []string{"required"})
	if err != nil {
		return err
	}
	if len(opts["pattern"]) > maxPattern {
		return fmt.Errorf("the pattern has more than %d bytes", maxPattern)
	}
	out := image.Parameter{Name: w[0], Pattern: opts["pattern"], Description: opts["description"]}
	_, out.Required = opts["required"]
	if def, ok := opts["default"]; ok {
		out.Default = &def
	}
	p.manifest.Parameters = replace(p.manifest.Parameters, out,
		func(o image.Parameter) bool { return o.Name == out.Name })
	return nil
}

func (p *planner) volume(in Instruction) error {
	list, err := p.list(in.Text)
	if err != nil {
		return err
	}
	n := 0
	for n < len(list) && path.IsAbs(list[n]) {
		n++
	}
	if n == 0 {
		return fmt.Errorf("not an absolute path: write %s", verbs[in.Verb].usage)
	}
	if in.container && n == len(list) {
		p.ociVolumes(list)
		return nil
	}
	opts, err := options(list[n:], []string{"name", "description"}, []string{"required", "readonly"})
	if err != nil {
		return err
	}
	if n > 1 && len(opts) > 0 {
		return errors.New("options belong to one path: write " + verbs[in.Verb].usage)
	}
	for _, dir := range list[:n] {
		v := image.Volume{Name: opts["name"], Path: path.Clean(dir), Description: opts["description"]}
		if v.Name == "" {
			v.Name = strings.ToLower(path.Base(v.Path))
		}
		_, v.Required = opts["required"]
		_, v.ReadOnly = opts["readonly"]
		p.addVolume(v)
	}
	_, err = image.Volumes(p.config.Config)
	return err
}

func (p *planner) addVolume(v image.Volume) {
	p.manifest.Volumes = replace(p.manifest.Volumes, v, func(o image.Volume) bool { return o.Path == v.Path })
	p.ociVolumes([]string{v.Path})
}

// ociVolumes are in the config alone: what a host makes of them is as with every
// other builder's image.
func (p *planner) ociVolumes(list []string) {
	if p.config.Config.Volumes == nil {
		p.config.Config.Volumes = map[string]struct{}{}
	}
	for _, dir := range list {
		p.config.Config.Volumes[path.Clean(dir)] = struct{}{}
	}
}

func (p *planner) writable(in Instruction) error {
	list, err := p.list(in.Text)
	for _, w := range list {
		if !slices.Contains(p.manifest.Writable, w) {
			p.manifest.Writable = append(slices.Clip(p.manifest.Writable), w)
		}
	}
	return err
}

// imageConfig is the OCI config that the plan amounts to, without layers.
func (p *planner) imageConfig() (ocispec.Image, error) {
	c := p.config
	c.Config.Env = p.vars
	if p.file.container && !p.describesItself() {
		delete(c.Config.Labels, image.ManifestLabel)
		return c, nil
	}
	p.describeExposed()
	c.Config.ExposedPorts = p.config.Config.ExposedPorts
	text, err := json.Marshal(p.manifest)
	if err != nil {
		return c, err
	}
	if _, err := image.ParseManifest(text); err != nil {
		return c, err
	}
	if c.Config.Labels == nil {
		c.Config.Labels = map[string]string{}
	}
	c.Config.Labels[image.ManifestLabel] = string(text)
	return c, nil
}

// describesItself is false for what a Containerfile says alone: its image is as
// other builders make it, and a host reads its config.
func (p *planner) describesItself() bool {
	return !reflect.DeepEqual(p.manifest, image.Manifest{SchemaVersion: 1})
}
