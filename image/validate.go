package image

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/signals"
)

var (
	paramName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)
	portName    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // a DNS label
	dottedName  = regexp.MustCompile(`^[A-Za-z_%][A-Za-z0-9_%-]*(\.[A-Za-z0-9_%-]+)*$`)
	osVersion   = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}$`)
	imageName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:+-]{0,254}$`)
)

// Validate names every mistake by its field.
func (m *Manifest) Validate() error {
	v := &validator{}
	v.check(m.SchemaVersion == 1, "schemaVersion", "%d is not supported: want 1", m.SchemaVersion)
	v.check(m.Name == "" || imageName.MatchString(m.Name), "name", "%q: want letters, digits and . _ / : + -", m.Name)
	v.text("summary", m.Summary)
	v.text("usage", m.Usage)
	v.check(m.Wait == "" || m.Wait == "main" || m.Wait == "all", "wait", "%q is neither main nor all", m.Wait)
	v.check(m.Stop.Signal == "" || signals.Known(m.Stop.Signal), "stop.signal",
		"%q is not a valid signal (for example SIGTERM or SIGRTMIN+3)", m.Stop.Signal)
	v.parameters(m.Parameters)
	v.ports(m.Ports)
	v.requires(m.Requires)
	v.check(len(m.Writable) <= maxPaths, "writable", "%d paths: at most %d are allowed", len(m.Writable), maxPaths)
	n := directories(m.Writable)
	v.check(n <= maxDirectories, "writable", "paths of %d directories: at most %d are allowed", n, maxDirectories)
	for i, w := range m.Writable {
		f := fmt.Sprintf("writable[%d]", i)
		v.path(f, w)
		v.check(!slices.Contains(m.Writable[:i], w), f, "%q is given twice", w)
	}
	v.volumes(m.Volumes)
	return errors.Join(v.errs...)
}

type validator struct{ errs []error }

func (v *validator) check(ok bool, field, format string, args ...any) {
	if !ok {
		v.errs = append(v.errs, fmt.Errorf("manifest: %s: "+format, append([]any{field}, args...)...))
	}
}

// How many writable paths, and how many volumes, an image can name, and of how many directories
// all of them may be: each start looks for them in the root, and makes what is missing.
const (
	maxPaths       = 128
	maxDirectories = 2000
)

// directories counts those that the paths would need, were nothing there.
func directories(paths []string) (n int) {
	for _, p := range paths {
		n += strings.Count(p, "/")
	}
	return n
}

func (v *validator) path(field, p string) {
	clean := path.IsAbs(p) && path.Clean(p) == p && p != "/" && len(p) < 1024
	v.check(clean && !strings.ContainsFunc(p, unicode.IsControl), field,
		"%q is not an absolute, clean path below /", p)
}

// text is shown on operators' terminals, so it must not steer them.
func (v *validator) text(field, s string) {
	bad := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	v.check(!strings.ContainsFunc(s, bad), field, "it contains control characters")
}

func (v *validator) parameters(list []Parameter) {
	seen, patterns := map[string]bool{}, Patterns{}
	for i, p := range list {
		f := fmt.Sprintf("parameters[%d]", i)
		v.check(paramName.MatchString(p.Name), f+".name", "%q is not a valid environment variable name", p.Name)
		v.check(!seen[p.Name], f+".name", "%q is given twice", p.Name)
		v.check(!strings.HasPrefix(p.Name, "NOMAD_") && !strings.HasPrefix(p.Name, "FREEJAIL_") && p.Name != "PATH",
			f+".name", "%q is reserved", p.Name)
		v.check(!p.Required || p.Default == nil, f+".default", "a required parameter cannot have a default")
		v.text(f+".description", p.Description)
		seen[p.Name] = true
		matches, err := patterns.Match(p.Pattern, p.Default)
		v.check(err == nil, f+".pattern", "%v", err)
		if p.Default == nil {
			continue
		}
		v.check(!strings.Contains(*p.Default, "\x00"), f+".default", "it contains a NUL byte")
		v.check(matches || err != nil, f+".default", "%q does not match the pattern %s", *p.Default, p.Pattern)
	}
}

func (v *validator) ports(list []Port) {
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, p := range list {
		f := fmt.Sprintf("ports[%d]", i)
		v.check(portName.MatchString(p.Name), f+".name", "%q: want a lower-case letter, then letters, digits, _ or -",
			p.Name)
		v.check(!names[p.Name], f+".name", "%q is given twice", p.Name)
		names[p.Name] = true
		v.check(p.Port >= 1 && p.Port <= 65535, f+".port", "%d is not a valid port (1 to 65535)", p.Port)
		v.check(p.Protocol == "" || p.Protocol == "tcp" || p.Protocol == "udp", f+".protocol",
			"%q is neither tcp nor udp", p.Protocol)
		number := fmt.Sprintf("%d/%s", p.Port, cmp.Or(p.Protocol, "tcp"))
		v.check(!numbers[number], f+".port", "%s is given twice", number)
		numbers[number] = true
		v.text(f+".description", p.Description)
		if p.Service != nil {
			v.service(f+".service", p)
		}
	}
}

func (v *validator) service(f string, p Port) {
	s := p.Service
	v.check(s.Name == "" || serviceName.MatchString(s.Name), f+".name",
		"%q: want up to 63 letters, digits and dashes, as in a DNS name", s.Name)
	for i, t := range s.Tags {
		v.check(t != "" && len(t) <= 255, fmt.Sprintf("%s.tags[%d]", f, i), "it is empty or longer than 255 bytes")
		v.check(printable.Line(t) == t, fmt.Sprintf("%s.tags[%d]",
			f, i), "%q: not a single line of printable characters", t)
	}
	c := s.Check
	if c == nil {
		return
	}
	v.check(c.Type == "http" || c.Type == "tcp", f+".check.type", "%q is neither http nor tcp", c.Type)
	v.check(c.Path == "" || c.Type == "http" && strings.HasPrefix(c.Path, "/"), f+".check.path",
		"%q: want a path beginning with /, for type http", c.Path)
	v.check(printable.Line(c.Path) == c.Path, f+".check.path", "%q: not a single line of printable characters", c.Path)
	v.check(p.Protocol != "udp", f+".check", "a udp port cannot be checked")
}

func (v *validator) requires(r Requires) {
	modes := []struct{ name, mode string }{{"shm", r.SysVIPC.Shm}, {"msg", r.SysVIPC.Msg}, {"sem", r.SysVIPC.Sem}}
	for _, m := range modes {
		v.check(m.mode == "" || m.mode == "new" || m.mode == "inherit", "requires.sysvipc."+m.name,
			"%q is neither new nor inherit", m.mode)
	}
	for i, d := range r.Devfs {
		f := fmt.Sprintf("requires.devfs[%d]", i)
		v.check(strings.TrimSpace(d) != "", f, "the rule is empty")
		v.text(f, d)
	}
	for i, a := range r.Allow {
		f := fmt.Sprintf("requires.allow[%d]", i)
		v.check(!strings.HasPrefix(a, "allow."), f, "%q: write it without \"allow.\"", a)
		v.check(dottedName.MatchString(a), f, "%q is not a valid parameter name", a)
		v.check(!slices.Contains(r.Allow[:i], a), f, "%q is given twice", a)
	}
	v.settings("requires.jail", r.Jail)
	v.settings("requires.sysctl", r.Sysctl)
	for i, m := range r.Mounts {
		f := fmt.Sprintf("requires.mounts[%d]", i)
		v.path(f+".target", m.Target)
		switch m.Type {
		case "tmpfs", "procfs", "fdescfs", "linprocfs", "linsysfs":
		default:
			v.check(false, f+".type", "%q: an image can ask for tmpfs, procfs, fdescfs, linprocfs and linsysfs", m.Type)
		}
		for j, o := range m.Options {
			v.check(o != "" && !strings.ContainsFunc(o, unicode.IsControl), fmt.Sprintf("%s.options[%d]",
				f, j), "%q is not a valid mount option", o)
		}
	}
	v.check(r.OSVersion.Min == "" || osVersion.MatchString(r.OSVersion.Min), "requires.osVersion.min",
		"%q is not a valid version (for example 14.1)", r.OSVersion.Min)
}

func (v *validator) settings(field string, m map[string]string) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v.check(dottedName.MatchString(name), field, "%q is not a valid name", name)
		v.check(!strings.ContainsFunc(m[name], unicode.IsControl), field+"."+name,
			"the value contains control characters")
	}
}

func (v *validator) volumes(list []Volume) {
	names, paths := map[string]bool{}, map[string]bool{}
	for i, vol := range list {
		f := fmt.Sprintf("volumes[%d]", i)
		v.check(portName.MatchString(vol.Name), f+".name", "%q: want a lower-case letter, then letters, digits, _ or -",
			vol.Name)
		v.check(!names[vol.Name], f+".name", "%q is given twice", vol.Name)
		names[vol.Name] = true
		v.path(f+".path", vol.Path)
		v.check(!paths[vol.Path], f+".path", "%q is given twice", vol.Path)
		paths[vol.Path] = true
		v.text(f+".description", vol.Description)
	}
}
