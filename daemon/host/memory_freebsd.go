package host

import "golang.org/x/sys/unix"

// Memory is the physical memory of the host, in bytes.
func Memory() (uint64, error) { return unix.SysctlUint64("hw.physmem") }
