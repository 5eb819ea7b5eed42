package mirror

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of sys/procctl.h and sys/wait.h.
const (
	idPID               = 0
	procTraceCtl        = 7
	procTraceCtlDisable = 2
)

// untraced has no other process of the same user read this one's memory: procctl(2). It leaves no core dump either.
func untraced() error {
	off := int32(procTraceCtlDisable)
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, idPID, uintptr(unix.Getpid()), procTraceCtl,
		uintptr(unsafe.Pointer(&off)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
