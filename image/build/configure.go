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
	if len(list) < 2 {
		return errUsage
	}
	name, value, _ := strings.Cut(list[1], "=")
	if len(list) > 2 {
		value = strings.Join(list[2:], " ")
	}
	name, value = strings.TrimRight(name, "; "), strings.Trim(value, `"; `)
	switch list[0] {
	case "set", "add":
		return p.request(in, name, value)
	case "remove":
		return p.withdraw(in, name)
	case "get":
		p.warn(in, "it only prints a value, so it is left out")
		return nil
	}
	return errUsage
}

// mounted are the file systems that a parameter has the host mount.
var mounted = map[string]image.MountRequest{
	"mount.fdescfs": {Type: "fdescfs", Target: "/dev/fd"},
	"mount.procfs":  {Type: "procfs", Target: "/proc"},
}

// ofTheJob tells whether a parameter is about what each jail has of its own.
func ofTheJob(name string) bool {
	for _, prefix := range []string{"ip4", "ip6", "interface", "host", "vnet.interface", "ip_hostname"} {
		if name == prefix || strings.HasPrefix(name, prefix+".") {
			return true
		}
	}
	return false
}

// ofBastille are what a jail of Bastille has and a task has not: when it starts,
// and what freejail does by itself.
var ofBastille = []string{"boot", "depend", "depends", "prio", "priority", "persist", "nopersist", "mount.devfs",
	"exec.clean", "exec.consolelog", "exec.timeout", "exec.fib", "stop.timeout", "osrelease", "osreldate"}

func isOn(value string) bool {
	return value == "" || value == "1" || value == "true" || value == "YES" || value == "on"
}

func (p *planner) request(in Instruction, name, value string) error {
	on := isOn(value)
	r := &p.manifest.Requires
	switch {
	case strings.HasPrefix(name, "allow.no"):
		return p.allowed(in, "allow."+strings.TrimPrefix(name, "allow.no"), !on)
	case strings.HasPrefix(name, "allow."):
		return p.allowed(in, name, on)
	case ipcOf(r, name) != nil:
		if value == "disable" {
			value = ""
		}
		*ipcOf(r, name) = value
	case name == "vnet":
		r.VNET = on || value == "new"
	case name == "novnet":
		r.VNET = false
	case name == "linux":
		r.Linux = on || value == "new"
	case mounted[name].Type != "":
		m := mounted[name]
		r.Mounts = slices.DeleteFunc(slices.Clone(r.Mounts),
			func(o image.MountRequest) bool { return o.Target == m.Target })
		if on {
			r.Mounts = append(r.Mounts, m)
		}
	case name == "devfs_ruleset":
		return errors.New("numbers of rulesets are the host's: ask for the rules themselves, by DEVFS in a Jailfile")
	case ofTheJob(name):
		p.warn(in, "the network and the names of a jail are the job's, so %s is left out", name)
	case slices.Contains(ofBastille, name):
		p.warn(in, "an image cannot set %s, so it is left out", name)
	case strings.HasPrefix(name, "exec.") || name == "command":
		return fmt.Errorf("%s: an image has one program, which is ENTRYPOINT of a Jailfile", name)
	default:
		return p.parameter(name, value, on)
	}
	return nil
}

func ipcOf(r *image.Requires, name string) *string {
	switch name {
	case "sysvshm":
		return &r.SysVIPC.Shm
	case "sysvmsg":
		return &r.SysVIPC.Msg
	case "sysvsem":
		return &r.SysVIPC.Sem
	}
	return nil
}

// allowed asks for a permission, or asks for it no more: what an image does not
// ask for it does not get.
func (p *planner) allowed(in Instruction, name string, on bool) error {
	r, name := &p.manifest.Requires, strings.TrimPrefix(name, "allow.")
	has := slices.Contains(r.Allow, name)
	if err := p.mayAskFor("allow." + name); err != nil {
		return err
	}
	switch {
	case on && !has:
		r.Allow = append(slices.Clip(r.Allow), name)
	case !on && has:
		r.Allow = slices.DeleteFunc(slices.Clone(r.Allow), func(o string) bool { return o == name })
	case !on:
		p.warn(in, "an image has only what it asks for, so allow.%s is left out", name)
	}
	return nil
}

// withdraw takes a request back that is the recipe's own or its base's.
func (p *planner) withdraw(in Instruction, name string) error {
	r := &p.manifest.Requires
	switch {
	case strings.HasPrefix(name, "allow."):
		return p.allowed(in, name, false)
	case ipcOf(r, name) != nil:
		*ipcOf(r, name) = ""
	case name == "vnet" || name == "linux" || mounted[name].Type != "":
		return p.request(in, name, "0")
	case r.Jail[name] != "":
		m := cloned(r.Jail)
		delete(m, name)
		r.Jail = m
	default:
		p.warn(in, "the image does not ask for %s, so it is left out", name)
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
	if err := p.mayAskFor(name); err != nil {
		return err
	}
	m := cloned(p.manifest.Requires.Jail)
	m[name] = value
	p.manifest.Requires.Jail = m
	return nil
}
