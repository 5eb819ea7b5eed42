package build

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freejail/freejail/image"
)

// configure is CONFIG: a jail parameter becomes a request of the image.
func (p *planner) configure(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if list[0] != "set" || len(list) < 2 {
		return fmt.Errorf("an image can only ask for parameters: write %s", verbs["CONFIG"].usage)
	}
	name, value, _ := strings.Cut(list[1], "=")
	if len(list) > 2 {
		value = strings.Join(list[2:], " ")
	}
	return p.request(in, name, strings.Trim(value, `"; `))
}

// mounted are the file systems that a parameter has the host mount.
var mounted = map[string]image.MountRequest{
	"mount.fdescfs": {Type: "fdescfs", Target: "/dev/fd"},
	"mount.procfs":  {Type: "procfs", Target: "/proc"},
}

func (p *planner) request(in Instruction, name, value string) error {
	on := value == "" || value == "1" || value == "true" || value == "YES"
	r := &p.manifest.Requires
	ipc := map[string]*string{"sysvshm": &r.SysVIPC.Shm, "sysvmsg": &r.SysVIPC.Msg, "sysvsem": &r.SysVIPC.Sem}
	switch {
	case strings.HasPrefix(name, "allow."):
		if !on {
			return fmt.Errorf("%s=%s: an image has only what it asks for: remove the line", name, value)
		}
		if allow := strings.TrimPrefix(name, "allow."); !slices.Contains(r.Allow, allow) {
			r.Allow = append(slices.Clip(r.Allow), allow)
		}
	case ipc[name] != nil:
		if value == "disable" {
			value = ""
		}
		*ipc[name] = value
	case name == "vnet":
		r.VNET = on || value == "new"
	case name == "linux":
		r.Linux = on || value == "new"
	case mounted[name].Type != "" && on:
		m := mounted[name]
		r.Mounts = replace(r.Mounts, m, func(o image.MountRequest) bool { return o.Target == m.Target })
	case name == "devfs_ruleset":
		return errors.New("numbers of rulesets are the host's: ask for the rules themselves, by DEVFS in a Jailfile")
	case name == "ip4" || name == "ip6" || name == "interface" || strings.HasPrefix(name, "ip4.") ||
		strings.HasPrefix(name, "ip6.") || strings.HasPrefix(name, "host."):
		p.warn(in, "the network and the names of a jail are the job's, so %s is left out", name)
	case strings.HasPrefix(name, "exec."):
		return fmt.Errorf("%s: an image has one program, which is ENTRYPOINT of a Jailfile", name)
	default:
		return p.parameter(name, value, on)
	}
	return nil
}

func (p *planner) parameter(name, value string, on bool) error {
	if own, taken := ownVerb[name]; taken || strings.HasPrefix(name, "mount.") {
		if own == "" {
			return fmt.Errorf("%s is set by freejail itself", name)
		}
		return fmt.Errorf("%s: use %s", name, own)
	}
	if value == "" && on {
		value = "true"
	}
	m := cloned(p.manifest.Requires.Jail)
	m[name] = value
	p.manifest.Requires.Jail = m
	return nil
}
