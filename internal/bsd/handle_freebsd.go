package bsd

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handle is struct fhandle of sys/mount.h: a file that is not held open, whatever
// its path becomes. It keeps nothing busy.
type Handle [28]byte

// HandleOf is the handle of an open directory.
func HandleOf(dir *os.File) (h Handle, err error) {
	dot := [2]byte{'.'}
	_, _, errno := unix.Syscall6(unix.SYS_GETFHAT, dir.Fd(), uintptr(unsafe.Pointer(&dot)),
		uintptr(unsafe.Pointer(&h[0])), 0, 0, 0)
	runtime.KeepAlive(dir)
	if errno != 0 {
		return h, &os.PathError{Op: "getfhat", Path: dir.Name(), Err: errno}
	}
	return h, nil
}

// OpenDir opens the directory to be read.
func (h Handle) OpenDir() (*os.File, error) {
	fd, _, errno := unix.Syscall(unix.SYS_FHOPEN, uintptr(unsafe.Pointer(&h[0])),
		unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("fhopen", errno)
	}
	return os.NewFile(fd, "deep"), nil
}
