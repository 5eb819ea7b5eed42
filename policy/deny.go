package policy

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// touches tells whether a request contains or overlaps what an entry denies. A
// deny is about a thing in all its forms: modes, flags and values do not narrow
// it. Where it cannot be told, the request is denied.
func (e *entry) touches(a *ask) bool {
	switch a.Kind {
	case Allow:
		return e.name.near(a.Name) || e.name.near(positive(a.Name))
	case Jail:
		return e.name.near(positive(a.Name)) || e.name.near(a.Name) && !e.spares(a)
	case Sysctl:
		return e.name.near(a.Name) && !e.spares(a)
	case SysVIPC:
		return e.name.match(a.Name)
	case Mount:
		return e.mount.touches(a.mount)
	case Service:
		return e.service.touches(&a.service)
	case Port:
		return !a.portsOK || e.ports.first <= a.ports.last && a.ports.first <= e.ports.last && e.ports.speaks(a.ports.protocol)
	case User, Module:
		return slices.ContainsFunc(a.forms(), e.value.anywhere)
	case NFS, VNET, Linux:
		return true
	}
	return e.covers(a)
}

// anywhere is match with a * that takes slashes too.
func (p pattern) anywhere(s string) bool {
	const other = "\x01"
	p.glob, p.prefix = strings.ReplaceAll(p.glob, "/", other), strings.ReplaceAll(p.prefix, "/", other)
	return p.match(strings.ReplaceAll(s, "/", other))
}

// near tells whether a pattern takes a dotted name, one above or one below it:
// who is denied mount.tmpfs has no use for mount, and who is denied mount none
// for mount.tmpfs.
func (p pattern) near(name string) bool {
	if name == "" {
		return false
	}
	if p.anywhere(name) || p.below(name) {
		return true
	}
	for i := range name {
		if name[i] == '.' && p.anywhere(name[:i]) {
			return true
		}
	}
	return false
}

// positive is the name that a boolean's name with "no" before its last part
// negates; empty where it negates none.
func positive(name string) string {
	dot := strings.LastIndexByte(name, '.') + 1
	if base, ok := strings.CutPrefix(name[dot:], "no"); ok {
		return name[:dot] + base
	}
	return ""
}

// parents are the names of permissions and parameters that have others below
// them in the kernel: see jail(8).
var parents = map[string]bool{"allow.mount": true, "mount": true, "ip4": true, "ip6": true, "children": true, "host": true, "linux": true, "zfs": true}

// below tells whether a pattern can take a name below another one: whether what
// it begins with is below, or for names with such, whether a part of it takes
// the other one.
func (p pattern) below(name string) bool {
	if strings.HasPrefix(p.prefix, name+".") {
		return true
	}
	for i := range p.glob {
		if !p.literal && parents[name] && (pattern{glob: p.glob[:i+1]}).anywhere(name+".") {
			return true
		}
	}
	return false
}

// gives tells in which direction a jail parameter gives more: upwards or
// downwards; see jail(8).
var gives = map[string]int{"children.max": +1, "securelevel": -1, "enforce_statfs": -1}

// spares tells that the value of a request is outside of the bound of a deny,
// on the side that gives less. A sysctl is never set, so nothing of it is more.
func (e *entry) spares(a *ask) bool {
	low, high := e.value.low, e.value.high
	n, ok := number(a.Value)
	if !ok || low == nil && high == nil || !e.name.match(a.Name) {
		return false
	}
	under, over := low != nil && n < *low, high != nil && n > *high
	up, known := gives[a.Name]
	switch {
	case a.Kind == Sysctl:
		return under || over
	case known && a.Kind == Jail:
		return up > 0 && under || up < 0 && over
	}
	return (low == nil || high == nil) && (under || over)
}

// touches is about a directory with all that is in it and all that it is in,
// read-only or not, of whatever size.
func (m *mountRule) touches(a mountAsk) bool {
	if !a.typed() {
		return true
	}
	return a.fstype == m.fstype && (a.odd || m.path == "" || within(m.path, a.where) || within(a.where, m.path))
}

// typed tells whether a mount says of what type it is.
func (a mountAsk) typed() bool { return a.fstype != "" && !strings.ContainsAny(a.fstype, " /,=") }

// wideKeys are what the names or paths begin with that an entry which touches
// the request can be about.
func (a *ask) wideKeys() []string {
	switch a.Kind {
	case Mount:
		if a.mount.odd || !a.mount.typed() {
			return []string{""} // everything
		}
		return []string{a.mount.where}
	case Service:
		return []string{a.service.name}
	case User, Module:
		return a.forms()
	}
	if p := positive(a.Name); p != "" {
		return []string{a.Name, p}
	}
	return []string{a.key()}
}

// forms are the names of what a request asks for: of a user the number too where
// that is known without the image's files, of a module those that it loads.
func (a *ask) forms() []string {
	switch a.Kind {
	case User:
		name, _, _ := strings.Cut(a.Value, ":")
		n, err := strconv.ParseUint(name, 10, 64)
		switch {
		case name == "" || name == "root" || err == nil && n == 0:
			return []string{"root", "0"}
		case err == nil:
			return []string{name, strconv.FormatUint(n, 10)}
		}
		return []string{name}
	case Module:
		name := strings.TrimSuffix(path.Base(a.Value), ".ko")
		out := []string{a.Value}
		for _, n := range append([]string{name}, loads[name]...) {
			out = append(out, n, n+".ko")
		}
		return out
	}
	return []string{a.key()}
}

// loads are the modules that others bring along: MODULE_DEPEND in sys/compat and
// sys/fs.
var loads = map[string][]string{
	"procfs":    {"pseudofs"},
	"linprocfs": {"pseudofs", "procfs", "linux_common", "sysvmsg", "sysvsem", "sysvshm"},
	"linsysfs":  {"pseudofs", "linux_common"},
}
