package jail

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// What a jail uses of the host's memory is told twice. What its processes have
// resident, together with what lies in its file systems in memory, is quickly asked
// and only an alarm: it has twice what is shared, and not what is in no page table.
// The objects that its processes have decide.

const (
	lookTick = time.Second      // how often a jail is looked at, where nothing alarms
	lookIdle = 10 * time.Second // where it does nothing
	lookRest = 30 * time.Second // at most, however long a look takes
	// A look that has no answer for so long, as of a server of files that is away,
	// leaves the decision to the alarm.
	lookPatience = 10 * time.Second
	// The kernel walks all pages that are resident for each mapping of them. Where
	// that takes longer it is told not to, which it heeds with the next mapping.
	lookWalk = 2 * time.Second
)

const skipResident = "kern.proc_vmmap_skip_resident_count"

// use is what is quickly known of a jail. A process that has no fault and runs no
// system call gets no page.
type use struct{ rss, files, faults, procs, system int64 }

func (u use) alarm(s state) bool { return u.rss+u.files > s.Memory }

// looks are the exact counts, by the jail's id.
type looks struct {
	mu      sync.Mutex
	m       map[int]*look
	listing bool // the host's objects
	skipped bool // skipResident was set by us
}

type look struct {
	busy       bool
	begun, end time.Time
	took       time.Duration
	seen       use
	counted    int64 // by the last look, in bytes; 0 where it had no answer
}

// due tells whether to look at a jail: so that it takes a small part of a processor,
// however much there is to look at.
func (l *look) due(s state, u use) bool {
	rest := time.Since(l.end)
	switch {
	case l.busy:
		return false
	case u.alarm(s):
		return rest > min(lookRest, 4*l.took)
	}
	return rest > max(lookTick, min(lookRest, 10*l.took)) && (u != l.seen || rest > lookIdle)
}

// enforceMemory kills jails that are over their limit. It waits for no look.
func (m *Manager) enforceMemory() {
	m.looks.shorten()
	if !m.watchesMemory() {
		return
	}
	used, err := m.memoryUsed()
	if err != nil {
		return // the next pass will do; Stats tells the error
	}
	limited := m.limited()
	due := m.looks.take(limited, used)
	if len(due) > 0 {
		go m.lookAt(due, used)
	}
	for _, s := range limited {
		if u := used[s.jid]; u.alarm(s) && m.looks.waits(s.jid) {
			m.killOver(s, u.rss+u.files, "")
		}
	}
}

// take are the jails to look at, which are busy from now on. Those that are no longer
// known are forgotten.
func (k *looks) take(limited map[string]state, used map[int]use) (due []state) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listing {
		return nil
	}
	known := map[int]*look{}
	for _, s := range limited {
		l := k.m[s.jid]
		if l == nil {
			l = &look{}
		}
		known[s.jid] = l
		if l.due(s, used[s.jid]) {
			l.busy, l.begun = true, time.Now()
			due = append(due, s)
		}
	}
	for jid, l := range k.m {
		if l.busy { // also where its jail is being killed
			known[jid] = l
		}
	}
	k.m, k.listing = known, len(due) > 0
	return due
}

// shorten keeps looks from taking long, for a process cannot end while it is looked
// at, and sets back what it set for that.
func (k *looks) shorten() {
	k.mu.Lock()
	defer k.mu.Unlock()
	long := false
	for _, l := range k.m {
		long = long || l.busy && time.Since(l.begun) > lookWalk
	}
	if long == k.skipped {
		return
	}
	was, err := unix.SysctlUint32(skipResident)
	if err != nil || long && was != 0 { // the operator has set it
		return
	}
	value := 0
	if long {
		value = 1
	}
	if bsd.SetSysctl(skipResident, value) == nil {
		k.skipped = long
	}
}

func (k *looks) waits(jid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.m[jid]
	return l != nil && l.busy && time.Since(l.begun) > lookPatience
}

// lookAt looks at jails, each by itself: one of many processes, or with a file of a
// server that is away, keeps nobody from his look.
func (m *Manager) lookAt(due []state, used map[int]use) {
	all, err := hostObjects()
	m.looks.mu.Lock()
	m.looks.listing = false
	m.looks.mu.Unlock()
	for _, s := range due {
		go func() {
			m.look(s, used[s.jid], all, err)
			m.looks.done(s.jid, used[s.jid])
		}()
	}
}

// counted is what the last look found that a jail has, in bytes; 0 where none did.
func (k *looks) counted(jid int) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.m[jid]; l != nil {
		return uint64(l.counted)
	}
	return 0
}

func (k *looks) count(jid int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.m[jid]; l != nil {
		l.counted = bytes
	}
}

func (k *looks) done(jid int, u use) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.m[jid]; l != nil {
		l.busy, l.end, l.took, l.seen = false, time.Now(), time.Since(l.begun), u
	}
}

// look kills a jail that is over its limit by the objects that it has, or by what is
// resident where the kernel does not tell of them.
func (m *Manager) look(s state, u use, all objects, err error) {
	var h holdings
	var has int64
	if err == nil {
		h, err = m.holdingsOf(s, u, all)
	}
	if err == nil {
		has = h.sum(s, u, all)
	}
	m.looks.count(s.jid, has)
	switch {
	case errors.Is(err, errTooLong):
		m.killFor(s, fmt.Sprintf("more than %d mappings in a process, or %d in all: its memory cannot be counted",
			maxMappings, maxJailMappings))
	case err != nil && u.alarm(s):
		m.killOver(s, u.rss+u.files, "")
	case has > s.Memory:
		m.lookAgain(s, u, h)
	}
}

// lookAgain makes sure: a handle can have become another's since the list was made.
func (m *Manager) lookAgain(s state, u use, before holdings) {
	all, err := hostObjects()
	if err != nil {
		return
	}
	h, err := m.holdingsOf(s, u, all)
	if err != nil {
		return // the next look tells
	}
	maps.DeleteFunc(h.anonymous, func(handle int64, _ bool) bool { return !before.anonymous[handle] })
	if has := h.sum(s, u, all); has > s.Memory {
		shared := h.shared(all) + all.named(s.root)
		m.killOver(s, has, fmt.Sprintf(", %d MiB of it shared memory", shared>>20))
	}
}

// sum is what a jail has, in bytes.
func (h *holdings) sum(s state, u use, all objects) int64 {
	return u.files + h.silent + all.anonymousOf(h.anonymous, all.copiesOf(h.private)) + h.shared(all) +
		all.named(s.root)
}

// holdingsOf asks for the jail's processes. What they have open is asked for where
// all shared memory of the host would be too much.
func (m *Manager) holdingsOf(s state, u use, all objects) (holdings, error) {
	h := holdings{
		anonymous: map[int64]bool{}, private: map[copied]int64{}, segments: map[segment]int64{},
		open: map[[2]int64]int64{},
	}
	var processes []holder
	err := m.eachBorn(func(jid int, p bsd.Process) {
		if jid == s.jid && !p.Zombie() {
			processes = append(processes, holder{p.PID(), int64(p.RSS())})
		}
	})
	for _, p := range processes {
		if err == nil {
			err = h.addMappings(p)
		}
	}
	if err != nil || h.sum(s, u, all)+all.sharedTotal() <= s.Memory {
		return h, err
	}
	for _, p := range processes {
		h.addOpen(p)
	}
	return h, nil
}

// limited are copies of the jails that have a limit.
func (m *Manager) limited() map[string]state {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]state{}
	for name, s := range m.jails {
		if s.Memory > 0 && !s.killed && !s.gone {
			out[name] = *s
		}
	}
	return out
}

// memoryUsed is what is quickly known, by jail.
func (m *Manager) memoryUsed() (map[int]use, error) {
	used := map[int]use{}
	err := m.eachBorn(func(jid int, p bsd.Process) {
		u := used[jid]
		u.rss += int64(p.RSS())
		u.faults += p.Faults()
		u.procs += int64(p.PID())
		u.system += int64(p.SysTime())
		used[jid] = u
	})
	if err != nil {
		return nil, err
	}
	for _, s := range m.limited() {
		u := used[s.jid]
		u.files = s.filesInMemory()
		used[s.jid] = u
	}
	return used, nil
}

func (s state) filesInMemory() (bytes int64) {
	for _, handle := range s.InMemory {
		bytes += usedIn(handle)
	}
	return bytes
}

// usedIn is what lies in a file system, in bytes; nothing in one that is no
// longer mounted.
func usedIn(handle []byte) int64 {
	var st unix.Statfs_t
	_, _, errno := unix.Syscall(unix.SYS_FHSTATFS, uintptr(unsafe.Pointer(unsafe.SliceData(handle))),
		uintptr(unsafe.Pointer(&st)), 0)
	runtime.KeepAlive(handle)
	if errno != 0 {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
}

// killOver kills a jail for its use of memory, in bytes.
func (m *Manager) killOver(s state, used int64, of string) {
	m.killFor(s, fmt.Sprintf("over the memory limit of %d MiB: %d MiB seen%s", s.Memory>>20, used>>20, of))
}

// killFor kills a jail, and tells why.
func (m *Manager) killFor(s state, why string) {
	m.mu.Lock()
	for _, now := range m.jails {
		if now.jid == s.jid {
			now.over = why
		}
	}
	m.mu.Unlock()
	// What is left of it is over the limit in the next pass too.
	_ = m.signalAll(s.jid, unix.SIGKILL, nil)
}
