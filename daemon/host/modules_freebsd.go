package host

import (
	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/network"
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

// networkModules are those of the interfaces that the daemon makes for its tasks.
func networkModules(cfg Config) []string {
	for _, n := range cfg.Networks {
		if n.Mode == network.NAT || n.Mode == network.Bridged {
			return []string{"if_epair", "if_bridge"}
		}
	}
	return nil
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
	for _, name := range networkModules(cfg) {
		if err := bsd.LoadModule(name); err != nil {
			log.Warn("a module for networks cannot be loaded: build it into the kernel, "+
				"or load it before securelevel is raised (sysrc kld_list+="+name+")",
				"module", name, "error", err)
		}
	}
}
