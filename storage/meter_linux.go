package storage

import (
	"os"

	"golang.org/x/sys/unix"
)

// dirHandle is a directory that is not held open, whatever its path becomes.
type dirHandle struct{ h unix.FileHandle }

func handleOf(f *os.File) (dirHandle, error) {
	h, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	return dirHandle{h}, os.NewSyscallError("name_to_handle_at", err)
}

// open takes any directory of the handle's file system.
func (h dirHandle) open(on *os.File) (*os.File, error) {
	fd, err := unix.OpenByHandleAt(int(on.Fd()), h.h, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_by_handle_at", err)
	}
	return os.NewFile(uintptr(fd), "deep"), nil
}
