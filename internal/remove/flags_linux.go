package remove

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidding are FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, which chattr(1)
// sets.
const forbidding = 0x10 | 0x20

// This system has no whiteouts that a directory lists.
func removeWhiteout(int, string) error { return nil }

func thawDir(dir int) error {
	_, err := thaw(dir)
	return err
}

// thaw clears the flags of an opened file or directory and returns those that it
// had, 0 where none forbids anything.
func thaw(fd int) (old uint32, err error) {
	old, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return 0, nil // the file system has none
	}
	if err != nil || old&forbidding == 0 {
		return 0, err
	}
	return old, setFlags(fd, old&^forbidding)
}

func setFlags(fd int, flags uint32) error {
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags))
}

// thawed clears the flags of a file or directory, which alone have any. Other
// names of the file keep them.
func thawed(dir int, name string, do func() error) (err error) {
	at, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("openat", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(at)) }()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return pathError("fstat", name, err)
	}
	if m := st.Mode & unix.S_IFMT; m != unix.S_IFREG && m != unix.S_IFDIR {
		return do()
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	old, err := thaw(fd)
	if err != nil {
		return pathError("ioctl", name, err)
	}
	err = do()
	if old != 0 && st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		err = errors.Join(err, pathError("ioctl", name, setFlags(fd, old)))
	}
	return err
}
