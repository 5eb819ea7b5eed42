package jail

import (
	"errors"
	"fmt"
	"math"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process of a jail has nothing of whoever started the daemon: it gets the
// limits of FreeBSD's login class daemon, umask 022, the default priority, all
// processors of its jail, and no signal ignored or blocked.

// Numbers of sys/resource.h, sys/signal.h, sys/rtprio.h and sys/cpuset.h.
const (
	rlimInfinity = math.MaxInt64
	rlimMemlock  = 6
	rlimNumbers  = 32 // more than any kernel has
	lastSignal   = 128
	sigIgn       = 1
	sigSetmask   = 3
	rtpLookup    = 0
	rtpSet       = 1
	rtpNormal    = 3

	sysSetlogin, sysSetloginclass = 50, 524

	cpuLevelWhich, cpuWhichPID, cpuWhichJail = 3, 2, 5
)

// memoryLocked is memorylocked of the class daemon in FreeBSD's /etc/login.conf.
const memoryLocked = 128 << 20

const usualUmask = 0o022

// sigaction is struct sigaction of sys/signal.h.
type sigaction struct {
	handler uintptr
	flags   int32
	mask    [4]uint32
}

// rtprio is struct rtprio of sys/rtprio.h.
type rtprio struct{ class, prio uint16 }

// inheritance is what a child has of us that is no business of a task's.
type inheritance struct {
	limits  []limit // as they are to be
	ignored []uintptr
	rtprio  bool
}

// readInherited asks which limits this kernel has, and what this process ignores.
func readInherited() (in inheritance, err error) {
	for r := range rlimNumbers {
		var now unix.Rlimit
		if err := unix.Getrlimit(r, &now); errors.Is(err, unix.EINVAL) {
			break
		} else if err != nil {
			return in, fmt.Errorf("getrlimit %d: %w", r, err)
		}
		n := int64(rlimInfinity) // the kernel has bounds of its own
		if r == rlimMemlock {
			n = memoryLocked
		}
		in.limits = append(in.limits, limit{uintptr(r), unix.Rlimit{Cur: n, Max: n}})
	}
	for sig := uintptr(1); sig <= lastSignal; sig++ {
		var now sigaction
		_, _, errno := syscall.RawSyscall(unix.SYS_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)))
		if errno == 0 && now.handler == sigIgn {
			in.ignored = append(in.ignored, sig)
		}
	}
	var prio rtprio
	if _, _, errno := unix.Syscall(unix.SYS_RTPRIO_THREAD, rtpLookup, 0, uintptr(unsafe.Pointer(&prio))); errno != 0 {
		return in, fmt.Errorf("rtprio: %w", errno)
	}
	in.rtprio = prio.class != rtpNormal
	return in, nil
}

// raiseOwn lets this process, which has files open for all of its tasks and writes
// for them, have as much as the kernel lets a process have.
func raiseOwn() error {
	for _, r := range []int{unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_AS, unix.RLIMIT_NOFILE} {
		if err := unix.Setrlimit(r, &unix.Rlimit{Cur: rlimInfinity, Max: rlimInfinity}); err != nil {
			return fmt.Errorf("setrlimit %d of this process: %w", r, err)
		}
	}
	return nil
}

// Names of who is logged in, and of the class: as at the host's boot.
var loginName, loginClass = [...]byte{'r', 'o', 'o', 't', 0}, [...]byte{'d', 'a', 'e', 'm', 'o', 'n', 0}

// Protect keeps the kernel from choosing this process when memory runs out. Its
// children are not kept from it, as those of a process would be that protect(1) has
// started with -i: only to clear a protection ends its inheritance.
func Protect() error {
	for _, op := range []int32{pprotClear, pprotSet} {
		if err := procctl(procSprotect, unsafe.Pointer(&op)); err != nil {
			return fmt.Errorf("procctl: protect the daemon when memory runs out: %w", err)
		}
	}
	return nil
}

// processors are those of a jail.
func processors(jid int) ([]byte, error) {
	mask := make([]byte, maxCPU/8)
	_, _, errno := unix.Syscall6(unix.SYS_CPUSET_GETAFFINITY, cpuLevelWhich, cpuWhichJail, uintptr(jid),
		uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])), 0)
	if errno != 0 {
		return nil, fmt.Errorf("processors of the jail: %w", errno)
	}
	return mask, nil
}

// becomeOrdinary takes back what the child has inherited, while it may still do so.
//
//go:norace
//go:nosplit
func (b *birth) becomeOrdinary() syscall.Errno {
	if b.inherited.rtprio {
		if _, _, errno := syscall.RawSyscall(unix.SYS_RTPRIO_THREAD, rtpSet, 0,
			uintptr(unsafe.Pointer(&b.normal))); errno != 0 {
			return errno
		}
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, 0); errno != 0 {
		return errno
	}
	for i := 0; i < len(b.inherited.limits); i++ {
		l := &b.inherited.limits[i]
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRLIMIT, l.resource, uintptr(unsafe.Pointer(&l.value)),
			0); errno != 0 {
			return errno
		}
	}
	syscall.RawSyscall(syscall.SYS_UMASK, usualUmask, 0, 0)
	_, _, errno := syscall.RawSyscall(sysSetloginclass, uintptr(unsafe.Pointer(&loginClass)), 0, 0)
	return errno
}

// becomeHeard has the child ignore and block no signal.
//
//go:norace
//go:nosplit
func (b *birth) becomeHeard() syscall.Errno {
	for i := 0; i < len(b.inherited.ignored); i++ {
		if _, _, errno := syscall.RawSyscall(unix.SYS_SIGACTION, b.inherited.ignored[i],
			uintptr(unsafe.Pointer(&b.noAction)), 0); errno != 0 {
			return errno
		}
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&b.noAction.mask)), 0)
	return errno
}
