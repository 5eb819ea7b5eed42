package task

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// jailsListenApart tells that a socket of all addresses is not in the way of one of a task with addresses of its own:
// the kernel compares those of jails with the same addresses alone (prison_equal_ip4 in in_pcblookup_local of
// netinet/in_pcb.c).
const jailsListenApart = true

// mountDev mounts devfs with a ruleset that the registry has read back whole:
// the kernel takes an unknown number for an empty set, which hides nothing.
func (m *mounter) mountDev(ruleset int, _ []devfs.Rule, _ []device, linux bool) error {
	if ruleset <= 0 {
		return fmt.Errorf("no devfs ruleset: /dev is not mounted")
	}
	var opts []string
	if linux {
		opts = []string{"linrdlnk"} // links, as Linux has them
	}
	if err := m.mountOn("/dev", mount.Mount{Type: "devfs",
		Options: []string{"ruleset=" + strconv.Itoa(ruleset)}}); err != nil {
		return err
	}
	return m.mountOn("/dev/fd", mount.Mount{Type: "fdescfs", Options: opts})
}

// checkPlatformAccess: a rule shows a node or hides it, and root in a jail may read and write whatever the
// node's mode is (vaccess in kern/vfs_subr.c). Nobody there can make a node (m): devfs(5) has it by itself.
func checkPlatformAccess(access string) error {
	if strings.Contains(access, "r") && strings.Contains(access, "w") {
		return nil
	}
	return fmt.Errorf("permissions %q: devfs(5) cannot let a jail only read a device, or only write it: "+
		"expected rw or rwm", access)
}

// mountedInside is nothing: the host sees the mounts of jails.
func mountedInside() map[string]string { return nil }

// jailDevices are what devfs(5) has by itself.
func jailDevices([]device) []jail.Device { return nil }

func (m *mounter) mountOn(target string, what mount.Mount) error {
	at, err := m.root.Dir(target)
	if err != nil {
		return err
	}
	return errors.Join(m.dirs.On(at, what), at.Close())
}

// platformDirs are what every root has mounts on.
func platformDirs() []string { return []string{"/dev"} }

// leftOut is none of the file systems here.
func leftOut(string) bool { return false }

// hostNetwork gives a jail the host's addresses.
func hostNetwork() map[string]string { return map[string]string{"ip4": "inherit", "ip6": "inherit"} }

func needsLinuxulator(os string) bool { return os == "linux" }

// linuxMounts are what programs of Linux expect to find.
var linuxMounts = []client.Mount{
	{Type: "linprocfs", Target: "/proc"}, {Type: "linsysfs", Target: "/sys"},
	{Type: "tmpfs", Target: "/dev/shm", Options: "mode=1777,size=67108864"},
}

// checkWait has nothing to refuse: the daemon is the reaper of its jails.
func checkWait(string) error { return nil }

// checkOSVersion takes "14.1" or a __FreeBSD_version such as "1401000".
func checkOSVersion(min string) error {
	if min == "" {
		return nil
	}
	have, err := unix.SysctlUint32("kern.osreldate")
	if err != nil {
		return err
	}
	major, minor, dotted := strings.Cut(min, ".")
	want, err := strconv.ParseUint(major, 10, 32)
	if err != nil {
		return client.Invalid("requires.osVersion.min %q is not a FreeBSD version (for example 14.1)", min)
	}
	if want < 1000 {
		want *= 100000
		if dotted {
			n, err := strconv.ParseUint(minor, 10, 8)
			if err != nil {
				return client.Invalid("requires.osVersion.min %q is not a FreeBSD version (for example 14.1)", min)
			}
			want += n * 1000
		}
	}
	if uint64(have) < want {
		return client.Invalid("the image needs FreeBSD %s or newer; this host is %d", min, have)
	}
	return nil
}

// sysctl reads a host's sysctl as text.
func sysctl(name string) (string, error) { return bsd.SysctlText(name) }

// secureDefaults hold for every jail. SysV IPC is off by the kernel's default,
// and not known to a kernel without it.
var secureDefaults = map[string]string{"enforce_statfs": "2", "children.max": "0", "allow.mount": "false"}

// lockedBy adds to an error what the host's securelevel may have to do with it.
func lockedBy(err error) string {
	if level := bsd.SecureLevel(); level > 0 && errors.Is(err, unix.EPERM) {
		return fmt.Sprintf("; kern.securelevel is %d: files with the flags schg, sappnd or sunlnk can be neither "+
			"changed nor removed, "+
			"as where a layer replaces one of the layer before. Unpack the image before the level is raised", level)
	}
	return ""
}

// loadsModules: a mount makes the kernel load the module of its file system.
const loadsModules = true
