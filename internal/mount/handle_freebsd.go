package mount

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handle names what is mounted on an opened directory, for fhstatfs(2), as long
// as it is mounted: no path leads to it and it keeps nothing busy.
func (p *Point) Handle() ([]byte, error) {
	here := [2]byte{'.'}
	handle := make([]byte, unsafe.Sizeof(unix.Statfs_t{}.Fsid)+unsafe.Sizeof(fid{}))
	_, _, errno := unix.Syscall6(unix.SYS_GETFHAT, p.file.Fd(), uintptr(unsafe.Pointer(&here)), uintptr(unsafe.Pointer(&handle[0])), 0, 0, 0)
	runtime.KeepAlive(p)
	if errno != 0 {
		return nil, &os.PathError{Op: "getfhat", Path: p.path, Err: errno}
	}
	return handle, nil
}

// fid is as large as struct fid of sys/mount.h: its length, two reserved bytes, data.
type fid [2 + 2 + 16]byte
