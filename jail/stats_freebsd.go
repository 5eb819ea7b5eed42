package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Offsets in struct kinfo_proc of sys/user.h, the same on amd64 and arm64.
const (
	kinfoSize = 1088

	kiPID    = 72
	kiPPID   = 76
	kiRSS    = 264 // pages
	kiStart  = 336 // timeval
	kiStat   = 388
	kiComm   = 447
	kiJID    = 592
	kiUser   = 608 // timeval, of the process
	kiSystem = 624
	kiMinFlt = 672
	kiMajFlt = 680
	kiCUser  = 752 // of its children that were waited for
	kiCSys   = 768

	kiCommLen = 20
	statZomb  = 5
)

// kinfo is one struct kinfo_proc.
type kinfo []byte

func (k kinfo) int(off int) int    { return int(int32(binary.NativeEndian.Uint32(k[off:]))) }
func (k kinfo) long(off int) int64 { return int64(binary.NativeEndian.Uint64(k[off:])) }
func (k kinfo) pid() int           { return k.int(kiPID) }
func (k kinfo) jid() int           { return k.int(kiJID) }
func (k kinfo) zombie() bool       { return k[kiStat] == statZomb }
func (k kinfo) rss() uint64        { return uint64(k.long(kiRSS)) * uint64(pageSize) }
func (k kinfo) comm() string       { return text(k[kiComm : kiComm+kiCommLen]) }
func (k kinfo) start() unix.Timeval {
	return unix.Timeval{Sec: k.long(kiStart), Usec: k.long(kiStart + 8)}
}

func (k kinfo) time(off int) time.Duration {
	return time.Duration(k.long(off))*time.Second + time.Duration(k.long(off+8))*time.Microsecond
}

var pageSize = unix.Getpagesize()

var errLayout = errors.New("this kernel's struct kinfo_proc has another size: freejail must be built for it")

// kinfoBuf is kept between the passes over all processes.
var kinfoBuf struct {
	sync.Mutex
	b []byte
}

// eachProcess calls f for all processes of the host, in one pass: {CTL_KERN,
// KERN_PROC, KERN_PROC_PROC}. What f is given does not outlive the call.
func eachProcess(f func(kinfo)) error {
	mib := []int32{1, 14, 8}
	kinfoBuf.Lock()
	defer kinfoBuf.Unlock()
	for {
		n, err := sysctl(mib, kinfoBuf.b, nil)
		if errors.Is(err, unix.ENOMEM) || err == nil && len(kinfoBuf.b) == 0 {
			// Room for more than there are: some are born meanwhile.
			if n, err = sysctl(mib, nil, nil); err == nil {
				kinfoBuf.b = make([]byte, n+n/4+16*kinfoSize)
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("sysctl kern.proc.proc: %w", err)
		}
		for b := kinfo(kinfoBuf.b[:n]); len(b) >= kinfoSize; b = b[kinfoSize:] {
			if b.int(0) != kinfoSize {
				return errLayout
			}
			f(b[:kinfoSize])
		}
		return nil
	}
}

// process reads one process: {CTL_KERN, KERN_PROC, KERN_PROC_PID, pid}.
func process(pid int) (kinfo, error) {
	k := make(kinfo, kinfoSize)
	n, err := sysctl([]int32{1, 14, 1, int32(pid)}, k, nil)
	switch {
	case errors.Is(err, unix.ESRCH) || err == nil && n == 0:
		return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	case err != nil:
		return nil, fmt.Errorf("process %d: %w", pid, err)
	case n != kinfoSize || k.int(0) != kinfoSize:
		return nil, errLayout
	}
	return k, nil
}

// startTime is when a process started, since the boot: the kernel adds the time
// of the boot, which moves when the clock is set.
func (k kinfo) startTime() (time.Duration, error) {
	boot, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return 0, fmt.Errorf("sysctl kern.boottime: %w", err)
	}
	s := k.start()
	return time.Duration(s.Nano() - boot.Nano()), nil
}

// StartTime tells processes apart that had the same pid one after another.
func StartTime(pid int) (string, error) {
	k, err := process(pid)
	if err != nil {
		return "", err
	}
	d, err := k.startTime()
	return strconv.FormatInt(d.Microseconds(), 10), err
}

// startedAt compares with what StartTime told. The clock's steps are rounded
// by a microsecond or two.
func (k kinfo) startedAt(start string) bool {
	want, err := strconv.ParseInt(start, 10, 64)
	if err != nil {
		return false
	}
	got, err := k.startTime()
	return err == nil && (got-time.Duration(want)*time.Microsecond).Abs() < 10*time.Millisecond
}

// Stats samples all jails in one pass over the host's processes.
func (m *Manager) Stats() (map[string]Usage, error) {
	byJID := map[int]*Usage{}
	names := map[string]int{}
	m.mu.Lock()
	for name, s := range m.jails {
		names[name], byJID[s.jid] = s.jid, &Usage{}
	}
	m.mu.Unlock()
	err := m.eachBorn(func(jid int, k kinfo) {
		if u := byJID[jid]; u != nil && !k.zombie() {
			u.add(k)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]Usage, len(names))
	for name, jid := range names {
		u := byJID[jid]
		if len(u.Procs) == 0 {
			continue
		}
		if m.racct {
			u.Swap = racctNumber(name, "swapuse")
		}
		out[name] = *u
	}
	return out, nil
}

func (u *Usage) add(k kinfo) {
	p := ProcUsage{PID: k.pid(), Command: k.comm(), UserTime: k.time(kiUser), SysTime: k.time(kiSystem), RSS: k.rss()}
	u.Procs = append(u.Procs, p)
	u.RSS += p.RSS
	u.UserTime += p.UserTime + k.time(kiCUser)
	u.SysTime += p.SysTime + k.time(kiCSys)
}

// racctNumber is one of the sums that the kernel keeps for a jail, 0 where it
// does not tell.
func racctNumber(name, resource string) uint64 {
	all, err := rctl(unix.SYS_RCTL_GET_RACCT, "jail:"+name+":")
	if err != nil {
		return 0
	}
	for item := range strings.SplitSeq(all, ",") {
		if v, ok := strings.CutPrefix(item, resource+"="); ok {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
