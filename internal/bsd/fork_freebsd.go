package bsd

import (
	"syscall"
	_ "unsafe" // for go:linkname
)

// The runtime's own hooks round a fork; their names and types are kept for
// packages that fork by themselves, see go.dev/issue/67401.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// Child is what a child of Fork does. Another thread may have held any lock, so Run, the method of a pointer,
// must not allocate, grow its stack or be scheduled: it makes raw system calls alone, on memory that was made
// ready before, in functions that are go:nosplit and go:norace.
type Child interface{ Run() }

// Fork forks by a system call, which returns 0 in the child. The child ends when its Run returns.
//
//go:norace
//go:noinline
func Fork(trap, arg1, arg2 uintptr, c Child) (result uintptr, errno syscall.Errno) {
	beforeFork()
	r, _, errno := syscall.RawSyscall(trap, arg1, arg2, 0)
	if errno != 0 || r != 0 {
		afterFork()
		return r, errno
	}
	c.Run()
	for {
		syscall.RawSyscall(syscall.SYS_EXIT, 253, 0, 0)
	}
}

// Forked has signals end a child of Fork from here on, as they end another process.
//
//go:norace
//go:nosplit
func Forked() { afterForkInChild() }
