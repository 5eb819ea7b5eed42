package daemon

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/mount"
)

// solLocal is SOL_LOCAL of sys/un.h.
const solLocal = 0

func socketPeer(fd int) (int, error) {
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return -1, err
	}
	return int(x.Uid), nil
}

// mountDev mounts devfs with a ruleset that the registry has read back whole:
// the kernel takes an unknown number for an empty set, which hides nothing.
func mountDev(root string, ruleset int, _ []devfs.Rule) error {
	if ruleset <= 0 {
		return fmt.Errorf("no devfs ruleset: /dev is not mounted")
	}
	dev, err := mount.Resolve(root, "/dev")
	if err != nil {
		return err
	}
	if err := mount.Do(mount.Mount{Type: "devfs", Source: "devfs", Target: dev, Options: []string{"ruleset=" + strconv.Itoa(ruleset)}}); err != nil {
		return err
	}
	return mount.Do(mount.Mount{Type: "fdescfs", Source: "fdescfs", Target: dev + "/fd"})
}

func mountPlatform(m mount.Mount) error { return mount.Do(m) }

// hostNetwork gives a jail the host's addresses.
func hostNetwork() map[string]string { return map[string]string{"ip4": "inherit", "ip6": "inherit"} }

func needsLinuxulator(os string) bool { return os == "linux" }

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
		return invalid("requires.osVersion.min %q is no FreeBSD version such as 14.1", min)
	}
	if want < 1000 {
		want *= 100000
		if dotted {
			n, err := strconv.ParseUint(minor, 10, 8)
			if err != nil {
				return invalid("requires.osVersion.min %q is no FreeBSD version such as 14.1", min)
			}
			want += n * 1000
		}
	}
	if uint64(have) < want {
		return invalid("the image needs FreeBSD %s or newer; this host is %d", min, have)
	}
	return nil
}

// sysctl reads a host's sysctl as text: integers by their size.
func sysctl(name string) (string, error) {
	b, err := unix.SysctlRaw(name)
	if err != nil {
		return "", err
	}
	switch len(b) {
	case 4:
		return strconv.Itoa(int(int32(binary.LittleEndian.Uint32(b)))), nil
	case 8:
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(b)), 10), nil
	}
	return strings.TrimRight(string(b), "\x00"), nil
}

func platformChecks(features map[string]string) []client.Check {
	var out []client.Check
	if features["racct"] == "1" {
		out = append(out, client.Check{Name: "racct", Status: "ok", Detail: "the kernel accounts and limits resources"})
	} else {
		out = append(out, client.Check{Name: "racct", Status: "warning", Detail: "off: memory limits are watched instead of enforced by the kernel",
			Fix: "add kern.racct.enable=1 to /boot/loader.conf and reboot"})
	}
	for _, m := range []struct{ fs, fix string }{{"nullfs", "kldload nullfs"}, {"unionfs", "kldload unionfs"}, {"fdescfs", "kldload fdescfs"}, {"tmpfs", "kldload tmpfs"}} {
		c := client.Check{Name: m.fs, Status: "ok", Detail: "known to the kernel"}
		if !mount.Known(m.fs) {
			c.Status, c.Detail, c.Fix = "warning", "not loaded; the kernel loads it at the first mount where it can", m.fix
		}
		out = append(out, c)
	}
	return out
}
