package task

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/policy"
)

// secureParams are what every jail has unless the policy permitted something
// else: the kernel's defaults, written out so that they do not depend on it.
func (m *Manager) secureParams() map[string]string {
	out := hostNetwork()
	maps.Copy(out, secureDefaults)
	if l := m.Config.Securelevel; l != nil {
		out["securelevel"] = strconv.Itoa(*l)
	}
	return out
}

// reservedParams are jail parameters that the daemon sets.
var reservedParams = map[string]bool{
	"jid": true, "name": true, "path": true, "persist": true, "parent": true, "host.hostname": true, "dying": true,
	"devfs_ruleset": true, "vnet": true, "meta": true, "env": true, "desc": true, "cpuset.id": true,
	"sysvshm": true, "sysvmsg": true, "sysvsem": true, "errmsg": true, "lastjid": true, "host": true,
}

// isReserved knows the negated form of a parameter too, such as nopersist, and
// what is below one, such as meta.freejail.
func isReserved(name string) bool {
	dot := strings.LastIndexByte(name, '.') + 1
	positive := name[:dot] + strings.TrimPrefix(name[dot:], "no")
	top, _, sub := strings.Cut(name, ".")
	return reservedParams[name] || reservedParams[positive] || top == "allow" || top == "noallow" ||
		sub && (top == "meta" || top == "env")
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_%-]*(\.[A-Za-z0-9_%-]+)*$`)

// checkSetting lets a value be only what everyone who reads it takes for the
// same: no blanks around it, nothing that is not shown, and a number in one
// way of writing it.
func checkSetting(what, name, value string, source policy.Source) error {
	fault := func(why string) error {
		return client.Invalid("%s %s=%q of the %s: %s", what, name, value, source, why)
	}
	if !settingName.MatchString(name) {
		return fault("not a valid name")
	}
	if value != strings.TrimSpace(value) {
		return fault("the value has leading or trailing blanks")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) || r > unicode.MaxASCII }) {
		return fault("the value has characters other than printable ASCII")
	}
	if n, err := strconv.ParseInt(value, 0, 64); err == nil && strconv.FormatInt(n, 10) != value {
		return fault("a number is written in decimal digits, without a plus, an underscore or leading zeros")
	}
	return nil
}

// What one task can ask for, image and job together.
const (
	maxRequests = 2000
	maxMounts   = 128
	maxPorts    = 256
	// maxPublished are ports of the host: each has a socket of the daemon's.
	maxPublished = 1024
)

func (p *plan) check(maxRules int) error {
	for what, n := range map[string][2]int{"privileges": {len(p.requests), maxRequests},
		"mounts": {len(p.mounts), maxMounts}, "ports": {len(p.ports), maxPorts},
		"ports of the host":          {p.hostPorts(), maxPublished},
		"writable paths and volumes": {len(p.image.Manifest.Writable) + len(p.volumes), maxMounts}} {
		if n[0] > n[1] {
			return client.Invalid("image and job ask for %d %s; at most %d are allowed", n[0], what, n[1])
		}
	}
	if len(p.rules) > maxRules {
		return client.Invalid("image and job ask for %d devfs rules, the host's maximum of a ruleset is %d "+
			"(devfs { max_rules })", len(p.rules), maxRules)
	}
	on := map[string]bool{}
	for _, m := range p.mounts {
		target := path.Clean(m.Target)
		if on[target] {
			return client.Invalid("image and job ask for two mounts on %s: one would hide the other", target)
		}
		on[target] = true
	}
	return nil
}

// hostPorts is how many ports of the host the task has.
func (p *plan) hostPorts() (n int) {
	for _, port := range p.ports {
		if port.Port != 0 {
			n += max(1, port.Count)
		}
	}
	return n
}

// askUser asks for what the process will run as, as far as its name tells; see
// checkUser.
func (p *plan) askUser(spec client.TaskSpec) {
	user, source := userOf(spec, p.image), policy.FromImage
	if spec.User != "" || user != p.image.Config.Config.User {
		source = policy.FromJob
	}
	name, _, _ := strings.Cut(user, ":")
	if n, err := strconv.ParseUint(name, 10, 32); name == "" || err == nil && n == 0 {
		name = "root"
	}
	p.user = policy.Request{Privilege: policy.User(name), Source: source}
	p.requests = append(p.requests, p.user)
}

// userDecision decides again by what the image's own files make of the user: its
// number, and all names that this has.
func (m *Manager) userDecision(spec client.TaskSpec, p *plan, user image.Creds) ([]policy.Request, policy.Decision,
	error) {
	names, err := user.Names()
	if err != nil {
		return nil, policy.Decision{}, client.Invalid("user: %v", err)
	}
	number := strconv.FormatUint(uint64(user.UID), 10)
	if user.UID == 0 {
		number = "root"
	}
	var asked []policy.Request
	for _, name := range append([]string{number}, names...) {
		if also := policy.User(name); also != p.user.Privilege {
			asked = append(asked, policy.Request{Privilege: also, Source: p.user.Source})
		}
	}
	if len(asked) == 0 {
		return nil, policy.Decision{Allowed: true}, nil
	}
	_, dec, err := m.Judge.Decision(spec, p.image, asked)
	return asked, dec, err
}

func (m *Manager) checkUser(spec client.TaskSpec, p *plan, user image.Creds) error {
	asked, dec, err := m.userDecision(spec, p, user)
	if err != nil || dec.Allowed {
		return err
	}
	return m.Judge.Decide(spec, p.image, asked)
}

// addVolume resolves a job's mount, and asks for it.
func (p *plan) addVolume(spec client.TaskSpec, v client.Mount) error {
	if err := CheckMountType(v.Type); err != nil {
		return err
	}
	if v.Type == "nullfs" {
		real, err := p.source(spec, v.Source)
		if err != nil {
			return err
		}
		v.Source = real
	}
	return p.askMount(v, policy.FromJob)
}

// CheckMountType refuses a file system that no job can ask for.
func CheckMountType(fstype string) error {
	if _, known := mountOptions[fstype]; !known {
		return fmt.Errorf("a job can mount nullfs, tmpfs, procfs, fdescfs, linprocfs and linsysfs, not %q", fstype)
	}
	return nil
}

// askMount checks a mount's options and asks for it with those that matter.
// Set-uid programs work on a mount only if that is asked for.
func (p *plan) askMount(m client.Mount, source policy.Source) error {
	what := privilege(m)
	opts, err := checkOptions(m, &what)
	if err != nil {
		return err
	}
	m.Options = strings.Join(opts, ",")
	p.mounts = append(p.mounts, m)
	p.ask(what, source)
	if m.Type != "nullfs" && !mount.Known(m.Type) && loadsModules {
		p.ask(policy.Module(m.Type), source)
	}
	return nil
}

// mountOptions are the options that an image or a job can give, by file system.
// Others, such as from= and fstype=, would turn a mount into another one.
var mountOptions = map[string][]string{
	"tmpfs":   {"size", "mode", "inodes", "nr_inodes"},
	"fdescfs": {"nodup", "linrdlnk"}, "procfs": nil, "linprocfs": nil, "linsysfs": nil, "nullfs": nil,
}

// checkOptions returns the options for the kernel, and adds those that the policy
// has to decide about to what is asked for.
func checkOptions(m client.Mount, asked *policy.Mount) (opts []string, err error) {
	seen := map[string]bool{}
	for _, o := range splitOptions(m.Options) {
		name, value, _ := strings.Cut(o, "=")
		if seen[name] {
			return nil, fmt.Errorf("option %s is given twice", name)
		}
		seen[name] = true
		switch {
		case o == "ro" || o == "noexec" || o == "nosuid":
			opts = append(opts, o)
		case o == "rw":
		case o == "suid":
			asked.SUID = true
		case !slices.Contains(mountOptions[m.Type], name):
			return nil, fmt.Errorf("option %q is not supported for %s; supported are %s", o, m.Type,
				strings.Join(append([]string{"ro", "noexec", "suid"}, mountOptions[m.Type]...), ", "))
		default:
			o, err := checkOption(name, value, asked)
			if err != nil {
				return nil, fmt.Errorf("option %q: %w", name+"="+value, err)
			}
			opts = append(opts, o)
		}
	}
	if !asked.SUID && !seen["nosuid"] {
		opts = append(opts, "nosuid")
	}
	return opts, nil
}

func checkOption(name, value string, asked *policy.Mount) (string, error) {
	switch name {
	case "size":
		n, err := units.RAMInBytes(value)
		if err != nil || n <= 0 {
			return "", fmt.Errorf("not a valid size (for example 64m)")
		}
		asked.Size = n
		return fmt.Sprintf("size=%d", n), nil
	case "mode":
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil || n > 0o1777 {
			return "", fmt.Errorf("not a valid mode (octal, at most 1777)")
		}
		return fmt.Sprintf("mode=%o", n), nil
	case "inodes", "nr_inodes":
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return "", fmt.Errorf("not a number")
		}
		return fmt.Sprintf("%s=%d", name, n), nil
	}
	if value != "" {
		return "", fmt.Errorf("takes no value")
	}
	return name, nil
}

// imagePlan is what an image asks for by itself, on any system.
func imagePlan(img *image.Image, more ...func(*plan, client.TaskSpec) error) (*plan, error) {
	p := &plan{image: img, params: map[string]string{}, sysctl: map[string]string{}}
	spec := client.TaskSpec{}
	steps := []func(*plan, client.TaskSpec) error{(*plan).addPorts, (*plan).addPrivileges,
		func(*plan, client.TaskSpec) error { return errors.Join(p.addImageMounts(), p.addImageVolumes()) }}
	for _, f := range append(steps, more...) {
		if err := f(p, spec); err != nil {
			return nil, err
		}
	}
	if p.askUser(spec); p.user.Privilege == policy.User("root") {
		p.requests = p.requests[:len(p.requests)-1] // what every image may do is not worth words
	}
	return p, nil
}

// Requests are those of an image where services are registered.
func Requests(img *image.Image) ([]policy.Request, error) {
	p, err := imagePlan(img, (*plan).addServices)
	if err != nil {
		return nil, err
	}
	return p.requests, nil
}

// Notes are what no policy decides about an image that has such requests.
func Notes(img *image.Image) []string {
	if len(img.Manifest.Ports) == 0 {
		return nil
	}
	return []string{portsDeclared + "they are enforced where the task's network has a stack of its own"}
}
