package remove

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// forbidding are the flags of sys/stat.h that keep a file as it is: UF_IMMUTABLE,
	// UF_APPEND, UF_NOUNLINK, SF_IMMUTABLE, SF_APPEND, SF_NOUNLINK.
	forbidding = 0x2 | 0x4 | 0x10 | 0x20000 | 0x40000 | 0x100000

	// Of sys/fcntl.h.
	oPath       = 0x00400000
	atEmptyPath = 0x4000
)

func thawDir(dir int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil || st.Flags&forbidding == 0 {
		return err
	}
	return syscall.Fchflags(dir, int(st.Flags&^forbidding))
}

// thawed clears the flags of an entry, be it a link or a device, which O_PATH
// neither follows nor opens. Other names of the file keep them.
func thawed(dir int, name string, do func() error) (err error) {
	fd, err := unix.Openat(dir, name, oPath|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("openat", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("fstat", name, err)
	}
	frozen := st.Flags&forbidding != 0
	if frozen {
		if err := setFlags(fd, st.Flags&^forbidding); err != nil {
			return pathError("chflags", name, err)
		}
	}
	err = do()
	if frozen && st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = errors.Join(err, pathError("chflags", name, setFlags(fd, st.Flags)))
	}
	return err
}

func setFlags(fd int, flags uint32) error {
	var empty [1]byte
	_, _, errno := unix.Syscall6(unix.SYS_CHFLAGSAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)), uintptr(flags),
		atEmptyPath, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// removeWhiteout takes away a name that unionfs left in its upper directory: it
// is listed and keeps the directory from being removed, and yet is not there.
// undelete(2) goes by a path, which can be too long; a file takes the place of a
// whiteout, and can be removed. Where there is none this changes nothing.
func removeWhiteout(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pathError("openat", name, err)
	}
	return errors.Join(unix.Close(fd), unlink(dir, name, 0))
}
