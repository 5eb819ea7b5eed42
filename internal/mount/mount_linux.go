package mount

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Do mounts a file system. Types that Linux has not are an error of the kernel.
func Do(m Mount) error {
	flags, data := split(m.Options)
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Err: err}
	}
	if m.Type != "nullfs" {
		return fail(unix.Mount(m.Source, m.Target, m.Type, flags, data))
	}
	if err := unix.Mount(m.Source, m.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fail(err)
	}
	// Else an unmount in the jail's tree would reach the host's.
	err := unix.Mount("", m.Target, "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == nil && flags != 0 { // a bind mount takes its flags afterwards
		err = unix.Mount("", m.Target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
	}
	if err != nil {
		return errors.Join(fail(err), Unmount(m.Target))
	}
	return nil
}

func split(opts []string) (flags uintptr, data string) {
	known := map[string]uintptr{"ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC, "nodev": unix.MS_NODEV, "noatime": unix.MS_NOATIME}
	var rest []string
	for _, o := range opts {
		if f, ok := known[o]; ok {
			flags |= f
		} else if o != "" {
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

func unmount(target string) error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) }

func (m Info) unmount(force bool) error {
	if force {
		return unix.Unmount(m.id, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return unmount(m.id)
}

// Abandon has all that wait for the server of an NFS mount fail, as far as this
// kernel can.
func Abandon(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // it has what there was to do done, or there is none
	}
	return err
}

// List returns all mounts in the order in which they were made.
func List() ([]Info, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b *mountinfo.Info) int { return a.ID - b.ID })
	out := make([]Info, 0, len(infos))
	for _, i := range infos {
		out = append(out, Info{Type: i.FSType, Source: i.Source, Target: i.Mountpoint, id: i.Mountpoint})
	}
	return out, nil
}

// Known reports whether the kernel has a file system type now. It may still
// load a module for it at the first mount.
func Known(fstype string) bool {
	b, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(b)), fstype)
}
