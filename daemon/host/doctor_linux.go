package host

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/network"
)

var fsNames = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay"}

func fsName(st *unix.Statfs_t) string {
	if n := fsNames[int64(st.Type)]; n != "" {
		return n
	}
	return fmt.Sprintf("a file system of type %#x", st.Type)
}

func (c *Checks) stateFS(_ Config, fstype string) {
	if fstype == "overlay" {
		c.Bad("state", "an overlay cannot have its upper directory on an overlay",
			"choose a state_dir on another file system, such as a tmpfs or a volume")
	}
}

func (c *Checks) system(cfg Config) {
	c.Warn("system", "Linux: runc imitates jails here, for development only",
		"in production run freejail on FreeBSD 14 or newer")
	if path, err := jail.Runtime(cfg.Runc); err != nil {
		c.Bad("runc", err.Error(), "install runc or crun, set RUNC_BIN, or name it in the host configuration "+
			"(runc = \"/path\")")
	} else {
		c.OK("runc", path)
	}
	if mount.Known("overlay") {
		c.OK("overlay", "loaded")
	} else {
		c.Warn("overlay", "not loaded; the kernel loads it at the first mount if it has the module", "modprobe overlay")
	}
	c.cgroups()
	if slices.ContainsFunc(cfg.Networks, func(n network.Network) bool { return n.Mode == network.NAT }) {
		c.forwarding(network.DroppedForwards())
	}
}

// forwarding warns of other programs' rules, such as Docker's.
func (c *Checks) forwarding(chains []string, err error) {
	if err != nil {
		c.Warn("forwarding", err.Error(), "")
	}
	for _, name := range chains {
		c.Warn("forwarding", "chain "+name+" drops what no rule there accepts (policy drop): tasks of nat networks "+
			"reach nothing outside, and published ports nothing inside, but for what it accepts",
			fmt.Sprintf("nft insert rule %s iifname 'fj*' accept && nft insert rule %[1]s oifname 'fj*' accept", name))
	}
}

func (c *Checks) cgroups() {
	list, err := mount.List()
	for _, m := range list {
		if m.Type == "cgroup" || m.Type == "cgroup2" {
			c.OK("cgroups", m.Type+" on "+m.Target)
			return
		}
	}
	detail := "not mounted"
	if err != nil {
		detail = err.Error()
	}
	c.Bad("cgroups", detail, "mount -t cgroup2 none /sys/fs/cgroup")
}
