package task

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// plan is a task merged from its job and its image: all that is asked for,
// resolved, before anything is decided or done. It is to be closed.
type plan struct {
	connection
	image    *image.Image
	stateDir string // the daemon's
	args     []string
	env      []string
	ports    []client.Port
	rules    []devfs.Rule
	devices  []device // whose rules are among them
	params   map[string]string
	sysctl   map[string]string
	mounts   []client.Mount      // the image's file systems and the job's volumes
	dirs     []client.Mount      // the task's own directories
	own      []storage.File      // its own files
	volumes  []string            // of the image's configuration
	sources  map[string]*os.File // what is mounted from the host, by its real path

	wait, stopSignal string // the job's, or else the image's
	stopTimeout      client.Duration
	requests         []policy.Request
	inMemory         [][]byte       // file systems in memory, mounted by now
	user             policy.Request // among them
	advertise        string         // the host's address for services that name none
	notes            []string       // for the task's owner, about its ports
}

const defaultPath = "PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"

// makePlan merges a job's settings with its image's manifest.
func (m *Manager) makePlan(spec client.TaskSpec, img *image.Image) (*plan, error) {
	p := &plan{image: img, stateDir: m.Config.StateDir, params: map[string]string{}, sysctl: map[string]string{}}
	network := func(spec client.TaskSpec) error { return m.addNetwork(p, spec) }
	steps := []func(client.TaskSpec) error{network, p.addCommand, p.addPorts, p.addNames, p.addEnv,
		p.addPrivileges, p.addDevices, p.addMounts, p.addDirs, p.askDirs, p.addEnd}
	for _, f := range steps {
		if err := f(spec); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	p.askUser(spec)
	p.askRoot(spec)
	if err := errors.Join(m.planServices(p, spec), p.check(m.Config.Devfs.MaxRules)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// planServices asks for names where there is a Consul to have them.
func (m *Manager) planServices(p *plan, spec client.TaskSpec) error {
	if m.Config.Consul.Address == "" {
		return nil
	}
	p.advertise = m.Config.Consul.Advertise
	return p.addServices(spec)
}

// addCommand follows the rule of other container tools: an entrypoint of the
// job's own drops the image's command too.
func (p *plan) addCommand(spec client.TaskSpec) error {
	c := p.image.Config.Config
	cmd := c.Cmd
	p.args = slices.Clone(c.Entrypoint)
	if len(spec.Entrypoint) > 0 {
		p.args, cmd = slices.Clone(spec.Entrypoint), nil
	}
	switch {
	case spec.Command != "":
		cmd = append([]string{spec.Command}, spec.Args...)
	case len(spec.Args) > 0:
		cmd = spec.Args
	}
	p.args = append(p.args, cmd...)
	if len(p.args) == 0 {
		return client.Invalid(
			"image %s has neither an entrypoint nor a command: give one in the job (command = \"...\")",
			p.image.Name)
	}
	return nil
}

// addEnd is when and how the task ends.
func (p *plan) addEnd(spec client.TaskSpec) error {
	m, c := p.image.Manifest, p.image.Config.Config
	p.wait = cmp.Or(spec.Wait, m.Wait, "main")
	if p.wait != "main" && p.wait != "all" {
		return client.Invalid("wait %q is neither main nor all", p.wait)
	}
	if p.stopSignal = cmp.Or(spec.StopSignal, m.Stop.Signal, c.StopSignal); p.stopSignal != "" {
		if _, err := parseSignal(p.stopSignal, p.image.Config.OS); err != nil {
			return err
		}
	}
	p.stopTimeout = cmp.Or(spec.StopTimeout, client.Duration(m.Stop.Timeout))
	return checkWait(p.wait)
}

// addEnv layers, from weak to strong: the image's environment, what freejail
// tells, the parameters, the job's environment.
func (p *plan) addEnv(spec client.TaskSpec) error {
	p.env = nil
	env := map[string]string{}
	put := func(kv string) {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	put(defaultPath)
	for _, kv := range p.image.Config.Config.Env {
		put(kv)
	}
	maps.Copy(env, p.portVars())
	known, patterns := map[string]bool{}, image.Patterns{}
	for _, mp := range p.image.Manifest.Parameters {
		known[mp.Name] = true
		v, given := spec.Parameters[mp.Name]
		if !given && mp.Default != nil {
			v, given = *mp.Default, true
		}
		if !given && mp.Required {
			return client.Invalid("image %s requires the parameter %s: %s", p.image.Name, mp.Name, mp.Description)
		}
		if !given {
			continue
		}
		matches, err := patterns.Match(mp.Pattern, &v)
		if err != nil {
			return client.Invalid("parameter %s of image %s: %v", mp.Name, p.image.Name, err)
		}
		if !matches {
			return client.Invalid("parameter %s = %q does not match %s: %s", mp.Name, v, mp.Pattern, mp.Description)
		}
		env[mp.Name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Parameters)) {
		if !known[name] {
			return client.Invalid("parameters: image %s has no parameter %q; see `freejail images %s`", p.image.Name,
				name, p.image.Name)
		}
	}
	for k, v := range spec.Env {
		env[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(env[k], "\x00") {
			return client.Invalid("environment: %q is not a valid variable", k)
		}
		p.env = append(p.env, k+"="+env[k])
	}
	return nil
}

// connected makes what tells the task of its own address.
func (p *plan) connected(spec client.TaskSpec, e network.Endpoint) error {
	p.endpoint = e
	return errors.Join(p.addNames(spec), p.addEnv(spec))
}

func (p *plan) ask(what policy.Privilege, source policy.Source) {
	p.requests = append(p.requests, policy.Request{Privilege: what, Source: source})
}

func (p *plan) addPrivileges(spec client.TaskSpec) error {
	r, err := p.image.Privileges()
	if err != nil {
		return client.Invalid("image %s: %v", p.image.Name, err)
	}
	fromImage := client.Wants{Devfs: r.Devfs, Allow: r.Allow, Jail: r.Jail, Sysctl: r.Sysctl, VNET: r.VNET,
		SysVIPC: map[string]string{"shm": r.SysVIPC.Shm, "msg": r.SysVIPC.Msg, "sem": r.SysVIPC.Sem}}
	if err := p.addWants(fromImage, policy.FromImage); err != nil {
		return err
	}
	if err := p.addWants(spec.Wants, policy.FromJob); err != nil {
		return err
	}
	if r.Linux || p.linuxulator() {
		p.ask(policy.Linux, policy.FromImage)
	}
	return checkOSVersion(r.OSVersion.Min)
}

func (p *plan) linuxulator() bool { return needsLinuxulator(p.image.Config.OS) }

func (p *plan) addWants(w client.Wants, source policy.Source) error {
	for _, text := range w.Devfs {
		rule, err := devfs.ParseRule(text)
		if err != nil {
			return client.Invalid("devfs rule of the %s: %v", source, err)
		}
		p.rules = append(p.rules, rule)
		p.ask(policy.Devfs{Rule: rule}, source)
	}
	for _, a := range w.Allow {
		name := "allow." + strings.TrimPrefix(a, "allow.")
		if !settingName.MatchString(name) {
			return client.Invalid("allow of the %s: %q is not a valid parameter name", source, a)
		}
		p.params[name] = "true"
		p.ask(policy.Allow(name), source)
	}
	for _, k := range slices.Sorted(maps.Keys(w.Jail)) {
		if isReserved(k) {
			return client.Invalid("jail parameter %q of the %s: freejail sets it itself, or it has a setting of its "+
				"own (allow, sysvipc, hostname, vnet)", k, source)
		}
		if err := checkSetting("jail parameter", k, w.Jail[k], source); err != nil {
			return err
		}
		p.params[k] = w.Jail[k]
		p.ask(policy.Jail(k, w.Jail[k]), source)
	}
	for _, k := range slices.Sorted(maps.Keys(w.SysVIPC)) {
		v := w.SysVIPC[k]
		if err := CheckSysVIPC(k, cmp.Or(v, "new")); err != nil {
			return client.Invalid("sysvipc of the %s: %v", source, err)
		}
		if v != "" {
			p.params["sysv"+k] = v
			p.ask(policy.SysVIPC(k, v), source)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(w.Sysctl)) {
		if err := checkSetting("sysctl", k, w.Sysctl[k], source); err != nil {
			return err
		}
		p.sysctl[k] = w.Sysctl[k]
		p.ask(policy.Sysctl(k, w.Sysctl[k]), source)
	}
	return p.checkStack(w, source)
}

// CheckSysVIPC refuses what is no SysV IPC of a jail.
func CheckSysVIPC(name, mode string) error {
	switch {
	case name != "shm" && name != "msg" && name != "sem":
		return fmt.Errorf("%q is not one of shm, msg and sem", name)
	case mode != "new" && mode != "inherit":
		return fmt.Errorf("%s: %q is neither new nor inherit", name, mode)
	}
	return nil
}

// askDirs asks for directories that are not the task's own: volumes of the
// orchestrator's configuration of this host. Nobody needs a permit for them, but
// they can be denied.
func (p *plan) askDirs(spec client.TaskSpec) error {
	for i, m := range spec.Dirs {
		own := slices.ContainsFunc(spec.Confined,
			func(dir string) bool { return Within(filepath.Clean(dir), filepath.Clean(m.Source)) })
		if !own {
			p.ask(privilege(p.dirs[i]), policy.FromHost)
		}
	}
	return nil
}

// privilege is a mount as it is asked for, but for its options.
func privilege(m client.Mount) policy.Mount {
	return policy.Mount{Type: m.Type, Source: m.Source, Target: path.Clean(m.Target), ReadOnly: m.ReadOnly}
}

// addMounts resolves a volume's source before anything is decided: the policy
// judges, and the kernel mounts, the same path.
func (p *plan) addMounts(spec client.TaskSpec) error {
	if err := p.addImageMounts(); err != nil {
		return err
	}
	if err := p.addImageVolumes(); err != nil {
		return err
	}
	for _, v := range spec.Volumes {
		kind := "volume"
		switch v.Type {
		case "":
			v.Type = "nullfs"
		case "tmpfs":
			kind = "tmpfs"
		}
		for _, mv := range p.image.Manifest.Volumes {
			if v.Name != "" && mv.Name == v.Name {
				v.Target = mv.Path
			}
		}
		v.ReadOnly = v.ReadOnly || p.readOnly(v.Target)
		if !filepath.IsAbs(v.Target) || filepath.Clean(v.Target) == "/" {
			return client.Invalid("%s %q: the target %q is not an absolute path below /", kind, v.Name, v.Target)
		}
		if err := p.addVolume(spec, v); err != nil {
			return client.Invalid("%s %s: %v", kind, v.Target, err)
		}
	}
	return p.requiredVolumes(spec)
}

// addLinux gives an image of Linux what its programs expect. The permit for
// Linux covers that, unless it is denied.
func (p *plan) addLinux() error {
	if !p.linuxulator() {
		return nil
	}
	shm := devfs.Rule{Path: "shm", Unhide: true}
	p.rules = append(p.rules, shm)
	p.ask(policy.Devfs{Rule: shm}, policy.FromHost)
	for _, m := range linuxMounts {
		if slices.ContainsFunc(p.image.Manifest.Requires.Mounts,
			func(own image.MountRequest) bool { return own.Target == m.Target }) {
			continue
		}
		if err := p.askMount(m, policy.FromHost); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) addImageMounts() error {
	if err := p.addLinux(); err != nil {
		return err
	}
	for _, m := range p.image.Manifest.Requires.Mounts {
		out := client.Mount{Type: m.Type, Target: m.Target, Options: strings.Join(m.Options, ",")}
		if err := p.askMount(out, policy.FromImage); err != nil {
			return client.Invalid("image %s: mount %s: %v", p.image.Name, m.Target, err)
		}
	}
	return nil
}

// addImageVolumes are for what the program writes, unless the manifest has them read-only.
func (p *plan) addImageVolumes() error {
	all, err := image.Volumes(p.image.Config.Config)
	if err != nil {
		return client.Invalid("image %s: %v", p.image.Name, err)
	}
	p.volumes = writableVolumes(all, p.image.Manifest)
	return nil
}

func writableVolumes(all []string, m *image.Manifest) []string {
	return slices.DeleteFunc(all, func(path string) bool {
		return slices.ContainsFunc(m.Volumes, func(v image.Volume) bool { return v.ReadOnly && v.Path == path })
	})
}

// readOnly tells whether the image wants what is mounted on a path read-only.
func (p *plan) readOnly(target string) bool {
	return slices.ContainsFunc(p.image.Manifest.Volumes, func(v image.Volume) bool {
		return v.ReadOnly && filepath.Clean(v.Path) == filepath.Clean(target)
	})
}

// requiredVolumes are those of the job, or of the orchestrator's configuration of this host.
func (p *plan) requiredVolumes(spec client.TaskSpec) error {
	for _, mv := range p.image.Manifest.Volumes {
		given := slices.ContainsFunc(slices.Concat(spec.Volumes, spec.Dirs), func(v client.Mount) bool {
			return v.Name == mv.Name || filepath.Clean(v.Target) == filepath.Clean(mv.Path)
		})
		if mv.Required && !given {
			return client.Invalid("image %s requires the volume %s at %s: %s", p.image.Name, mv.Name, mv.Path,
				mv.Description)
		}
	}
	return nil
}
