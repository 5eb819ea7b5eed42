package treecopy

import (
	"io/fs"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// Of sys/fcntl.h.
const (
	oPath      = 0x00400000
	oEmptyPath = 0x02000000
)

// reopen opens for reading what is open as a place (namei_emptypath in sys/kern/vfs_lookup.c).
func reopen(f *os.File) (*os.File, error) {
	defer runtime.KeepAlive(f)
	fd, err := unix.Openat(int(f.Fd()), "", oEmptyPath|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// specials are by their names in vfs.conflist. A name in fdescfs(4) is a descriptor of the process that opens it.
var specials = []string{"devfs", "fdescfs", "linprocfs", "linsysfs", "mqueuefs", "procfs"}

// special is the name of a special file system, also through nullfs(4): opening a name there is done below it.
func special(f *os.File) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", err
	}
	name, err := mount.TypeOf(&st)
	if err == nil && !slices.Contains(specials, name) {
		name = ""
	}
	return name, err
}
