package daemon

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/mount"
)

// mountDev makes a /dev of the nodes that the rules leave visible.
func mountDev(root string, _ int, rules []devfs.Rule, _ bool) error {
	dev, err := mount.Resolve(root, "/dev")
	if err != nil {
		return err
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "dev", Target: dev, Options: []string{"mode=755", "size=1048576"}}); err != nil {
		return err
	}
	return devfs.Populate(dev, rules)
}

// platformDirs are what every root has mounts on, runc's included.
func platformDirs() []string { return []string{"/dev", "/proc"} }

// mountPlatform leaves FreeBSD's own file systems out: runc provides /proc, and
// /dev/fd is a link.
func mountPlatform(m mount.Mount) error {
	switch m.Type {
	case "procfs", "linprocfs", "linsysfs", "fdescfs":
		return nil
	}
	return mount.Do(m)
}

func hostNetwork() map[string]string { return map[string]string{} }

func needsLinuxulator(string) bool { return false }

// linuxMounts are runc's task here.
var linuxMounts []client.Mount

// checkWait refuses what a container cannot do: its first process is the init
// of a PID namespace, with which all others end.
func checkWait(wait string) error {
	if wait == "all" {
		return invalid("wait = \"all\" needs FreeBSD: on this development host all processes of a task end with the first")
	}
	return nil
}

// checkOSVersion has nothing to compare on a development host.
func checkOSVersion(string) error { return nil }

func sysctl(name string) (string, error) {
	clean := filepath.Clean("/" + strings.ReplaceAll(name, ".", "/"))
	b, err := os.ReadFile(filepath.Join("/proc/sys", clean))
	return strings.TrimSpace(string(b)), err
}

// secureDefaults are jails' alone.
var secureDefaults map[string]string

// loadsModules: what a mount loads here is the developer's matter.
const loadsModules = false
