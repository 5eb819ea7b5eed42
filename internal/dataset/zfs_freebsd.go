package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// Of sys/fs/zfs.h and sys/zfs_ioctl_compat.h of OpenZFS. libzfs, which zfs(8) is made of, calls the same.
const (
	ioctlVersion = 15   // ZFS_IOCVER_OZFS
	objsetStats  = 0x12 // ZFS_IOC_OBJSET_STATS
	destroy      = 0x18 // ZFS_IOC_DESTROY
	clone        = 0x42 // ZFS_IOC_CLONE
)

// command begins as zfs_cmd_t does. The kernel reads and writes the size of its own, about 6 KiB, which releases may
// make larger.
type command struct {
	name             [1024]byte
	src, srcSize     uint64
	dst, dstSize     uint64
	whatTheKernelHas [64<<10 - 1056]byte
}

// parameter is zfs_iocparm_t.
type parameter struct {
	version uint32
	cmd     uint64
	size    uint64
}

// errNoDevice is of a host where ZFS is not loaded; zfs(8) loads it.
var errNoDevice = errors.New("no /dev/zfs")

// call has the kernel act on a dataset or snapshot. Its error is the kernel's unix.Errno, or that of opening /dev/zfs.
func call(request byte, name string, args nvlist) error {
	dev, err := os.OpenFile("/dev/zfs", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoDevice
	}
	if err != nil {
		return err
	}
	defer dev.Close()
	c := &command{}
	if len(name) >= len(c.name) {
		return unix.ENAMETOOLONG
	}
	copy(c.name[:], name)
	var packed, said []byte
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(c)
	if args != nil {
		packed, said = args.pack(), make([]byte, 16<<10)
		pin.Pin(&packed[0])
		pin.Pin(&said[0])
		c.src, c.srcSize = uint64(uintptr(unsafe.Pointer(&packed[0]))), uint64(len(packed))
		c.dst, c.dstSize = uint64(uintptr(unsafe.Pointer(&said[0]))), uint64(len(said))
	}
	p := &parameter{version: ioctlVersion, cmd: uint64(uintptr(unsafe.Pointer(c))), size: uint64(unsafe.Sizeof(*c))}
	const readWrite = 0xc0000000 | uint64(unsafe.Sizeof(parameter{}))<<16 | 'Z'<<8
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), uintptr(readWrite|uint64(request)),
		uintptr(unsafe.Pointer(p)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Has tells whether a dataset or a snapshot is there. That it cannot be told is an error, not an answer.
func Has(name string) (bool, error) {
	err := call(objsetStats, name, nil)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, errNoDevice):
		return has(name)
	}
	return false, fmt.Errorf("zfs: %s: %w", name, err)
}

// Clone makes a file system of a snapshot, with a quota in bytes if that is not 0. It is not mounted.
func Clone(snapshot, name string, quota int64) error {
	args := nvlist{{"origin", snapshot}}
	if quota > 0 {
		args = append(args, nvpair{"props", nvlist{{"quota", uint64(quota)}}})
	}
	if err := call(clone, name, args); err != nil {
		return fmt.Errorf("zfs: clone %s as %s: %w", snapshot, name, err)
	}
	return nil
}

// Mount mounts a file system at a directory, which it makes, whatever its mountpoint is.
func Mount(name, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := mount.Do(mount.Mount{Type: "zfs", Source: name, Target: dir})
	if err != nil {
		_ = os.Remove(dir) // what else is in it is somebody's
	}
	return err
}

// ErrDependents is of a file system that others hold: its snapshots, clones of these, or who has it open.
var ErrDependents = errors.New("it has snapshots or is in use")

// Destroy unmounts a file system from the directory, if it is there, with what is mounted in it, and destroys it and
// the directory. One that is not there is no error. The error is ErrDependents where zfs destroy -r may do more.
func Destroy(name, dir string) error {
	if at, err := mount.At(dir); err == nil && at.Type == "zfs" && at.Source == name {
		if err := at.Release(); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := call(destroy, name, nil)
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST), errors.Is(err, errNoDevice):
		return fmt.Errorf("zfs: destroy %s: %w: %w", name, ErrDependents, err)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("zfs: destroy %s: %w", name, err)
	}
	_ = os.Remove(dir) // what else is in it, beneath, is somebody's
	return nil
}
