package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// jailsListenApart tells that a socket of all addresses is not in the way of one of a task with addresses of its own:
// here it is.
const jailsListenApart = false

// mountDev makes a /dev of the nodes that the rules leave visible.
func (m *mounter) mountDev(_ int, rules []devfs.Rule, devices []device, _ bool) error {
	dev, err := m.root.Dir("/dev")
	if err != nil {
		return err
	}
	err = m.dirs.On(dev, mount.Mount{Type: "tmpfs", Source: "dev", Options: []string{"mode=755", "size=1048576"}})
	if err = errors.Join(err, dev.Close()); err != nil {
		return err
	}
	if dev, err = m.root.Dir("/dev"); err != nil {
		return err
	}
	err = devfs.Populate(dev.Name(), rules)
	for _, d := range devices {
		if err == nil {
			err = devfs.Make(dev.Name(), rules, d.Device)
		}
	}
	return errors.Join(err, dev.Close())
}

// checkPlatformAccess: the cgroup keeps to each of them.
func checkPlatformAccess(access string) error {
	if access == "" {
		return errors.New("without permissions: expected some of r, w and m")
	}
	return nil
}

func jailDevices(all []device) (out []jail.Device) {
	for _, d := range all {
		out = append(out, jail.Device{Block: d.Block, Access: d.access, Major: int64(unix.Major(d.Rdev)),
			Minor: int64(unix.Minor(d.Rdev))})
	}
	return out
}

// platformDirs are what every root has mounts on, runc's included.
func platformDirs() []string { return []string{"/dev", "/proc"} }

// mountedInside are what runc mounts in a task's own mount namespace.
func mountedInside() map[string]string {
	return map[string]string{"/proc": "proc", "/dev/pts": "devpts", "/dev/shm": "a tmpfs of the task alone"}
}

// leftOut are FreeBSD's own file systems: runc provides /proc, and /dev/fd is a
// link.
func leftOut(fstype string) bool {
	switch fstype {
	case "procfs", "linprocfs", "linsysfs", "fdescfs":
		return true
	}
	return false
}

func hostNetwork() map[string]string { return map[string]string{} }

func needsLinuxulator(string) bool { return false }

// linuxMounts are runc's task here.
var linuxMounts []client.Mount

// checkWait refuses what a container cannot do: its first process is the init
// of a PID namespace, with which all others end.
func checkWait(wait string) error {
	if wait == "all" {
		return client.Invalid("wait = \"all\" needs FreeBSD: on this development host all processes of a task end " +
			"with the first")
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

// lockedBy knows no such level here.
func lockedBy(error) string { return "" }

// loadsModules: what a mount loads here is the developer's matter.
const loadsModules = false
