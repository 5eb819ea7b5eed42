package bsd

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LoadModule loads a kernel module by its name, from where the kernel looks for modules; one that is there,
// or is built in, is no error. securelevel can forbid it.
func LoadModule(module string) error {
	name, err := unix.BytePtrFromString(module)
	if err != nil {
		return fmt.Errorf("kldload %q: %w", module, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_KLDLOAD, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 &&
		errno != unix.EEXIST {
		return fmt.Errorf("kldload %s: %w", module, errno)
	}
	return nil
}

// HasModule tells whether a kernel module of this name is loaded or built in.
func HasModule(module string) bool {
	name, err := unix.BytePtrFromString(module)
	if err != nil {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_MODFIND, uintptr(unsafe.Pointer(name)), 0, 0)
	return errno == 0
}
