package bsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Record is a struct of the kernel's, whose fields have offsets.
type Record []byte

// Int is the int at an offset.
func (r Record) Int(at int) int { return int(int32(binary.NativeEndian.Uint32(r[at:]))) }

// Uint is the unsigned int at an offset.
func (r Record) Uint(at int) int64 { return int64(binary.NativeEndian.Uint32(r[at:])) }

// Long is the 64-bit number at an offset.
func (r Record) Long(at int) int64 { return int64(binary.NativeEndian.Uint64(r[at:])) }

// text is the string in a field of a size.
func (r Record) text(at, size int) string { return unix.ByteSliceToString(r[at : at+size]) }

// duration is the struct timeval at an offset.
func (r Record) duration(at int) time.Duration {
	return time.Duration(r.Long(at))*time.Second + time.Duration(r.Long(at+8))*time.Microsecond
}

// Offsets in struct kinfo_proc of sys/user.h, the same on amd64 and arm64.
const (
	procSize = 1088

	kiTraceP = 32 // the trace's file, as the kernel names it
	kiPID    = 72
	kiPPID   = 76
	kiRSS    = 264 // pages
	kiStart  = 336 // timeval
	kiTraced = 384
	kiStat   = 388
	kiLogin  = 420
	kiComm   = 447
	kiJID    = 592
	kiUser   = 608 // timeval, of the process
	kiSystem = 624
	kiMinFlt = 672
	kiMajFlt = 680
	kiCUser  = 752 // of its children that were waited for
	kiCSys   = 768

	kiLoginLen = 18
	kiCommLen  = 20
	statZomb   = 5
)

// Process is a struct kinfo_proc: what the kernel tells of one process.
type Process struct{ Record }

// PID is its number, PPID its parent's, and JID its jail's, 0 for the host.
func (p Process) PID() int  { return p.Int(kiPID) }
func (p Process) PPID() int { return p.Int(kiPPID) }
func (p Process) JID() int  { return p.Int(kiJID) }

// Zombie tells one that has ended, and waits for its parent to ask.
func (p Process) Zombie() bool { return p.Record[kiStat] == statZomb }

// Trace tells of ktrace(2) what is traced of it, a bit for each point, and the kernel's own name of the file.
func (p Process) Trace() (points uint32, file int64) {
	const mask = 0x00ffffff // KTRFAC_MASK
	return uint32(p.Uint(kiTraced)) & mask, p.Long(kiTraceP)
}

// RSS is its resident memory in bytes.
func (p Process) RSS() uint64 { return uint64(p.Long(kiRSS)) * uint64(PageSize) }

// Faults are its page faults.
func (p Process) Faults() int64 { return p.Long(kiMinFlt) + p.Long(kiMajFlt) }

// Command is the name of its program, and Login the user who is logged in.
func (p Process) Command() string { return p.text(kiComm, kiCommLen) }
func (p Process) Login() string   { return p.text(kiLogin, kiLoginLen) }

// UserTime and SysTime are the time on processors; those of children are of the
// ones that were waited for.
func (p Process) UserTime() time.Duration         { return p.duration(kiUser) }
func (p Process) SysTime() time.Duration          { return p.duration(kiSystem) }
func (p Process) ChildrenUserTime() time.Duration { return p.duration(kiCUser) }
func (p Process) ChildrenSysTime() time.Duration  { return p.duration(kiCSys) }

// Started is when it started, since the boot: the kernel adds the time of the
// boot, which moves when the clock is set.
func (p Process) Started() (time.Duration, error) {
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return 0, fmt.Errorf("sysctl kern.boottime: %w", err)
	}
	return p.duration(kiStart) - time.Duration(boot.Nano()), nil
}

// PageSize is a page of memory in bytes.
var PageSize = unix.Getpagesize()

var errLayout = errors.New("this kernel's struct kinfo_proc has another size: freejail must be built for it")

// all is kept between the passes over all processes.
var all struct {
	sync.Mutex
	b []byte
}

// EachProcess calls f for all processes of the host, in one pass. What f is given
// does not outlive the call.
func EachProcess(f func(Process)) error {
	number := []int32{1, 14, 8} // CTL_KERN, KERN_PROC, KERN_PROC_PROC
	all.Lock()
	defer all.Unlock()
	for {
		n, err := Sysctl(number, all.b, nil)
		if errors.Is(err, unix.ENOMEM) || err == nil && len(all.b) == 0 {
			// Room for more than there are: some are born meanwhile.
			if n, err = Sysctl(number, nil, nil); err == nil {
				all.b = make([]byte, n+n/4+16*procSize)
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("sysctl kern.proc.proc: %w", err)
		}
		for b := Record(all.b[:n]); len(b) >= procSize; b = b[procSize:] {
			if b.Int(0) != procSize {
				return errLayout
			}
			f(Process{b[:procSize]})
		}
		return nil
	}
}

// FindProcess tells of one process; the error is ESRCH where there is none.
func FindProcess(pid int) (Process, error) {
	p := Process{make(Record, procSize)}
	n, err := Sysctl([]int32{1, 14, 1, int32(pid)}, p.Record, nil) // KERN_PROC_PID
	switch {
	case err == nil && n == 0:
		err = unix.ESRCH
	case err == nil && (n != procSize || p.Int(0) != procSize):
		err = errLayout
	}
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}
