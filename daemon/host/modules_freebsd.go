package host

import (
	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/mount"
)

// Modules are the file systems that the daemon itself mounts for its tasks.
func Modules(cfg Config) []string {
	own := []string{"nullfs", "fdescfs", "tmpfs"}
	if usesUnion(cfg) {
		own = append(own, "unionfs")
	}
	if usesZFS(cfg) {
		own = append(own, "zfs")
	}
	return own
}

// LoadModules loads what the daemon itself needs: of a module that is not loaded
// a task's mount is asked for. A kernel without one says so when it is mounted.
func LoadModules(cfg Config, log hclog.Logger) {
	for _, name := range Modules(cfg) {
		if mount.Known(name) {
			continue
		}
		if err := mount.Load(name); err != nil {
			log.Warn("a file system cannot be loaded: build it into the kernel, "+
				"or load it before securelevel is raised (sysrc kld_list+="+name+")",
				"module", name, "error", err)
		}
	}
}
