package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	zfs "github.com/mistifyio/go-zfs/v3"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/mount"
)

func fsName(st *unix.Statfs_t) string { return unix.ByteSliceToString(st.Fstypename[:]) }

func (c *Checks) stateFS(cfg Config, fstype string) {
	if !usesUnion(cfg) {
		return
	}
	if fstype == "ufs" || fstype == "tmpfs" {
		// kern_truncate has unionfs_add_writecount take a reference of a file that is not copied yet.
		c.Warn("union",
			"a task can panic the kernel, by truncate(2) of a file of its image: unionfs of FreeBSD 15.1 and before",
			"for images that you do not trust set storage { zfs_dataset = \"POOL/freejail\" } "+
				"or { driver = \"readonly\" }; see docs/storage.md")
		return
	}
	c.Bad("state", "union storage needs UFS, this is "+fstype,
		"set storage { zfs_dataset = \"POOL/freejail\" } or { driver = \"readonly\" } in the host configuration, "+
			"or choose a state_dir on UFS")
}

func usesUnion(cfg Config) bool {
	return cfg.Storage.Driver == "union" || cfg.Storage.Driver == "auto" && cfg.Storage.ZFSDataset == ""
}

func usesZFS(cfg Config) bool {
	return cfg.Storage.Driver == "zfs" || cfg.Storage.Driver == "auto" && cfg.Storage.ZFSDataset != ""
}

func (c *Checks) system(cfg Config) {
	c.release()
	c.isolation()
	c.racct()
	c.securelevel()
	for _, m := range Modules(cfg) {
		c.fileSystem(m)
	}
	if usesZFS(cfg) {
		c.dataset(cfg.Storage.ZFSDataset)
	}
	c.linux()
	c.stacks(cfg, thisStackHost())
}

func (c *Checks) linux() {
	const fix = "sysrc linux_enable=YES && service linux start"
	if v, err := bsd.SysctlText("kern.features.linux64"); err != nil || v != "1" {
		c.Warn("linux64", "not loaded: images of Linux cannot run, those of FreeBSD can", fix)
	} else if v, err := bsd.SysctlText("kern.elf64.fallback_brand"); err != nil || v != "3" {
		c.Warn("linux64", "static programs of Linux do not start: "+
			"the kernel does not take unmarked programs for Linux's (kern.elf64.fallback_brand=3)", fix)
	} else {
		c.OK("linux64", "images of Linux can run")
	}
}

// oldest is the __FreeBSD_version of 14.0.
const oldest = 1400000

func (c *Checks) release() {
	v, err := unix.SysctlUint32("kern.osreldate")
	switch {
	case err != nil:
		c.Bad("system", err.Error(), "")
	case v < oldest:
		c.Bad("system", fmt.Sprintf("FreeBSD %d is too old", v),
			"upgrade to FreeBSD 14 or newer: freebsd-update -r RELEASE upgrade")
	default:
		c.OK("system", fmt.Sprintf("FreeBSD %d", v))
	}
}

// securelevel keeps files with flags of the system's, as FreeBSD's base has them.
func (c *Checks) securelevel() {
	if level := bsd.SecureLevel(); level > 0 {
		c.Warn("securelevel", fmt.Sprintf("kern.securelevel is %d: files with the flags schg, sappnd or sunlnk, "+
			"as FreeBSD's base has them, cannot be removed: unpacked images, and roots whose tasks set such flags, "+
			"stay on the disk", level),
			"use storage { driver = \"zfs\" }, which removes datasets all the same, "+
				"or remove images before the level is raised: "+
				"sysrc kern_securelevel_enable=NO && shutdown -r now, then freejail gc")
	}
}

// tamperProof is the __FreeBSD_version of 15.0: from there on nobody of the host but
// root can trace, signal or schedule what runs in a jail (cr_can_tamper_with_subjail in
// sys/kern/kern_prot.c).
const tamperProof = 1500000

// isolation is of tasks from the host's own users.
func (c *Checks) isolation() {
	release, err1 := unix.SysctlUint32("kern.osreldate")
	see, err2 := unix.SysctlUint32("security.bsd.see_jail_proc")
	if err := errors.Join(err1, err2); err != nil {
		c.Bad("isolation", err.Error(), "")
		return
	}
	c.isolationOf(release, see != 0)
}

func (c *Checks) isolationOf(release uint32, seesJails bool) {
	switch {
	case release >= tamperProof:
		c.OK("isolation", "the kernel keeps the host's users from the tasks' processes")
	case seesJails:
		c.Warn("isolation",
			"a user of the host with the uid of a task's user sees its processes, and can trace and signal them",
			"sysctl security.bsd.see_jail_proc=0 && echo security.bsd.see_jail_proc=0 >>/etc/sysctl.conf, "+
				"and give tasks uids that no user of the host has")
	default:
		c.OK("isolation", "the host's users do not see the tasks' processes; "+
			"before FreeBSD 15 one with a task's uid can still signal them by their numbers")
	}
}

func (c *Checks) racct() {
	if v, err := bsd.SysctlText("kern.racct.enable"); err != nil || v != "1" {
		c.Warn("racct",
			"off: limits of CPU and processes have no effect, and no memory limit holds while no daemon runs",
			"echo kern.racct.enable=1 >>/boot/loader.conf && shutdown -r now")
		return
	}
	c.OK("racct", "the kernel accounts for resources and limits them")
}

// fileSystem is there, or the daemon loads it where the kernel may load modules.
func (c *Checks) fileSystem(name string) {
	if mount.Known(name) {
		c.OK(name, "loaded")
		return
	}
	fix := fmt.Sprintf("kldload %s && sysrc kld_list+=%s", name, name)
	for _, dir := range []string{"/boot/kernel", "/boot/modules"} {
		if _, err := os.Stat(filepath.Join(dir, name+".ko")); err == nil && bsd.SecureLevel() <= 0 {
			c.OK(name, "a module, which the daemon loads")
			return
		}
	}
	c.Bad(name, "not in the kernel, and no module that may be loaded", fix)
}

func (c *Checks) dataset(name string) {
	if name == "" {
		c.Bad("zfs dataset", "not set", "set storage { zfs_dataset = \"POOL/freejail\" } in the host configuration")
		return
	}
	if _, err := zfs.GetDataset(name); err != nil {
		c.Bad("zfs dataset", fmt.Sprintf("%s: %v", name, err), "zfs create -o mountpoint=none -o canmount=off "+name)
		return
	}
	c.OK("zfs dataset", name)
}
