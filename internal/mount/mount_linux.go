package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Descriptors mounts on what is opened. This system needs nothing for it.
type Descriptors struct{}

// OpenDescriptors is for systems that name descriptors in a directory.
func OpenDescriptors(string) (*Descriptors, error) { return &Descriptors{}, nil }

// alone is nothing that this system needs to know.
type alone struct{}

func newAlone(*os.File) (*alone, error) { return nil, nil }

// Close has nothing to take back.
func (*Descriptors) Close() error { return nil }

// Path leads to what is opened, while it is, and while this is in use; it may be
// opened anew by it.
func (*Descriptors) Path(f *os.File) string { return name(int(f.Fd())) }

// Use has nothing to prepare.
func (*Descriptors) Use() (release func() error, err error) { return func() error { return nil }, nil }

// On mounts a file system on an opened point; m.Target is not looked at. Types
// that Linux has not are an error of the kernel.
func (*Descriptors) On(p *Point, m Mount) error {
	defer runtime.KeepAlive(p)
	m.Target = p.path
	if err := m.on(int(p.file.Fd())); err != nil {
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Err: err}
	}
	return nil
}

// Do is On for a target, and a source, whose paths are nobody else's to change.
func Do(m Mount) error {
	fd, err := unix.Open(m.Target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(m.on(fd), unix.Close(fd))
	}
	if err != nil {
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Err: err}
	}
	return nil
}

// name is a path that leads to what a descriptor is open on, whatever became of
// its name: mount(2) and umount2(2) follow it there.
func name(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (m Mount) on(target int) error {
	flags, data := split(m.Options)
	if m.Type != "nullfs" {
		return unix.Mount(m.Source, name(target), m.Type, flags, data)
	}
	tree, err := m.tree()
	if err != nil {
		return err
	}
	// All is set before anybody can see it, and for the mounts of the host below
	// it too. What is unmounted in the jail's tree must not be so in the host's.
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
		&unix.MountAttr{Attr_set: attributes(flags), Propagation: unix.MS_PRIVATE})
	if err == nil {
		err = unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	}
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: Linux 5.12 or newer is needed", err)
	}
	return errors.Join(err, unix.Close(tree))
}

// tree is a bind mount of a source that is mounted nowhere yet.
func (m Mount) tree() (int, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	if m.From != nil {
		defer runtime.KeepAlive(m.From)
		return unix.OpenTree(int(m.From.Fd()), "", flags|unix.AT_EMPTY_PATH)
	}
	return unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
}

// attributes are mount_setattr(2)'s for mount(2)'s flags.
func attributes(flags uintptr) (attr uint64) {
	for flag, a := range map[uintptr]uint64{unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY,
		unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID,
		unix.MS_NODEV:  unix.MOUNT_ATTR_NODEV, unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC,
		unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME} {
		if flags&flag != 0 {
			attr |= a
		}
	}
	return attr
}

func split(opts []string) (flags uintptr, data string) {
	known := map[string]uintptr{"ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC,
		"nodev": unix.MS_NODEV, "noatime": unix.MS_NOATIME}
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

// unmount goes to the mount point by a path without links and makes sure that it
// is the mount that is meant. A descriptor keeps a mount busy, so it is detached:
// with all that is mounted in it.
func (m Info) unmount(bool) error {
	err := m.detach()
	if err == nil {
		return nil // mostly: the list is long where there are many tasks
	}
	for range 100 { // somebody may be moving its mount point about
		list, lerr := List()
		if lerr != nil {
			return errors.Join(err, lerr)
		}
		i := slices.IndexFunc(list, func(i Info) bool { return i.id == m.id })
		if i < 0 {
			return nil // it went with the one in which it was mounted
		}
		if err = list[i].detach(); err == nil {
			return nil
		}
	}
	return err
}

func (m Info) detach() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, m.Target, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return err
	}
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err == nil && strconv.FormatUint(st.Mnt_id, 10) != m.id {
		err = errors.New("something else is mounted there")
	} else if err == nil {
		err = unix.Unmount(name(fd), unix.MNT_DETACH)
	}
	return errors.Join(err, unix.Close(fd))
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

const oPath = unix.O_PATH

// list returns the mounts whose targets are wanted, in the order in which they were made.
func list(wanted func(target []byte) bool) ([]Info, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !wanted([]byte(i.Mountpoint)), false
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b *mountinfo.Info) int { return a.ID - b.ID })
	out := make([]Info, 0, len(infos))
	for _, i := range infos {
		out = append(out, Info{Type: i.FSType, Source: i.Source, Target: i.Mountpoint, id: strconv.Itoa(i.ID)})
	}
	return out, nil
}

// own is empty: to unmount goes by a path here, which is looked up in the list where it has changed.
var own none

type none struct{}

func (none) below([]string) []Info { return nil }

// LearnOwn is for systems that unmount by a number alone.
func LearnOwn(...string) error { return nil }

// Known reports whether the kernel has a file system type now. It may still
// load a module for it at the first mount.
func Known(fstype string) bool {
	b, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(b)), fstype)
}

// Name is a path by which this process can reach what is opened.
func (p *Point) Name() string { return name(int(p.file.Fd())) }
