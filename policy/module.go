package policy

import (
	"path"
	"strings"
)

// Module asks for a kernel module that the host would load.
func Module(name string) Privilege { return named{"module", "kernel module", name} }

func init() { registerNamed(Module, moduleNames) }

// moduleNames are those of a module and of those that it loads.
func moduleNames(module string) []string {
	name := strings.TrimSuffix(path.Base(module), ".ko")
	out := []string{module}
	for _, n := range append([]string{name}, loads[name]...) {
		out = append(out, n, n+".ko")
	}
	return out
}

// loads are the modules that others bring along: MODULE_DEPEND in sys/compat and
// sys/fs.
var loads = map[string][]string{
	"procfs":    {"pseudofs"},
	"linprocfs": {"pseudofs", "procfs", "linux_common", "sysvmsg", "sysvsem", "sysvshm"},
	"linsysfs":  {"pseudofs", "linux_common"},
}
