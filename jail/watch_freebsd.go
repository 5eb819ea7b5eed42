package jail

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// sys/event.h of FreeBSD 15.
const (
	evfiltJail     = -14
	noteJailRemove = 0x10000000
)

const (
	tick     = 2 * time.Second        // for orphans, and for jails where the kernel does not tell
	fastTick = 250 * time.Millisecond // while a memory limit is watched
)

// procState is what this backend keeps of a process.
type procState struct{ killed bool } // by us

func (t *procs) markKilled(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.m[pid]; ok {
		p.backend.killed = true
	}
}

func (t *procs) forget(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, pid)
}

func (m *Manager) event(ident, filter int, fflags uint32) error {
	e := unix.Kevent_t{Ident: uint64(ident), Filter: int16(filter), Flags: unix.EV_ADD | unix.EV_CLEAR, Fflags: fflags}
	for {
		_, err := unix.Kevent(m.kq, []unix.Kevent_t{e}, nil, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// watchJail asks to be told of a jail's removal, or leaves it to the scan.
func (m *Manager) watchJail(jid int) error {
	if !m.events {
		return nil
	}
	return m.event(jid, evfiltJail, noteJailRemove)
}

// run is the one goroutine that waits for everything.
func (m *Manager) run() {
	events := make([]unix.Kevent_t, 64)
	last := time.Now()
	for {
		every := tick
		if m.watchesMemory() {
			every = fastTick
		}
		timeout := unix.NsecToTimespec(int64(max(0, every-time.Since(last))))
		n, err := unix.Kevent(m.kq, nil, events, &timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("kevent: %v", err)) // the descriptor is ours alone
		}
		for _, e := range events[:max(0, n)] {
			m.handle(e)
		}
		if time.Since(last) >= every {
			m.tick()
			last = time.Now()
		}
	}
}

func (m *Manager) handle(e unix.Kevent_t) {
	switch e.Filter {
	case unix.EVFILT_SIGNAL:
		m.reapEnded()
	case unix.EVFILT_PROC:
		// A child's end comes with its usage when it is reaped.
		p, err := bsd.FindProcess(int(e.Ident))
		if err == nil && p.PPID() == unix.Getpid() {
			m.reap(p.JID())
		}
		m.procs.still.RLock()
		defer m.procs.still.RUnlock()
		m.ended(int(e.Ident), unix.WaitStatus(e.Data), 0)
	case evfiltJail:
		m.vanished(int(e.Ident))
	}
}

func (m *Manager) jids() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]int, 0, len(m.jails))
	for _, s := range m.jails {
		out = append(out, s.jid)
	}
	return out
}

// reapEnded collects the children that have ended in any jail. The kernel names one of them, which tells the jail: to
// ask for each jail would go through all children once for each.
func (m *Manager) reapEnded() {
	for last := 0; ; {
		pid, _, _, _ := wait6(idAll, 0, waitExited|waitNoHang|waitNoWait)
		if pid == 0 {
			return
		}
		p, err := bsd.FindProcess(pid)
		if err != nil || pid == last || !slices.Contains(m.jids(), p.JID()) { // os/exec's, and others may be behind it
			break
		}
		m.reap(p.JID())
		last = pid
	}
	for _, jid := range m.jids() {
		m.reap(jid)
	}
}

// reap collects the children that have ended in a jail: our own, and what
// they left behind, which comes to us as their reaper. It waits for starts
// under way, so that no child ends unknown.
func (m *Manager) reap(jid int) {
	m.procs.still.RLock()
	defer m.procs.still.RUnlock()
	m.starting.Lock()
	defer m.starting.Unlock()
	for {
		pid, ws, self, children := wait6(idJail, jid, waitExited|waitNoHang)
		if pid == 0 {
			return
		}
		m.ended(pid, ws, max(self.Maxrss, children.Maxrss)*1024)
	}
}

// reapOrphans collects what came from jails inside jails, or from jails that
// are no longer known. Children of the host's own prison are os/exec's.
func (m *Manager) reapOrphans() {
	m.procs.still.RLock()
	defer m.procs.still.RUnlock()
	m.starting.Lock()
	defer m.starting.Unlock()
	for range 256 {
		pid, _, _, _ := wait6(idAll, 0, waitExited|waitNoHang|waitNoWait)
		if pid == 0 {
			return
		}
		p, err := bsd.FindProcess(pid)
		if err != nil || p.JID() == 0 || m.isToAdopt(p.JID()) {
			return
		}
		if got, ws, self, _ := wait6(idPID, pid, waitExited|waitNoHang); got == pid {
			m.ended(pid, ws, self.Maxrss*1024)
		}
	}
}

// isToAdopt tells whether a jail is one that an earlier daemon has made and nobody has
// adopted yet. How its processes end is for who adopts them: a child that is reaped
// before has no exit code.
func (m *Manager) isToAdopt(jid int) bool {
	if slices.Contains(m.jids(), jid) {
		return false
	}
	i, err := jailGet("", jid-1)
	_, ours := ourName(i.Name)
	return err == nil && i.JID == jid && ours
}

// ended tells the end of a process; maxRSS in bytes is 0 where it is not known.
func (m *Manager) ended(pid int, ws unix.WaitStatus, maxRSS int64) {
	p, ok := m.procs.get(pid)
	if !ok {
		return
	}
	e := exitOf(syscall.WaitStatus(ws))
	if e.Signal == int(unix.SIGKILL) && !p.backend.killed {
		m.explainKill(p.jail, maxRSS, &e)
	}
	m.procs.tell(pid, e)
}

// explainKill finds out whether a SIGKILL that was not ours came from a limit:
// the kernel does not tell who sent it.
func (m *Manager) explainKill(name string, maxRSS int64, e *Exit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.jails[name]
	switch {
	case s == nil || s.killed:
	case s.over != "":
		e.OOM, e.Reason = true, s.over
	case s.gone:
		e.Reason = "its jail was removed by someone else"
	case !m.racct || s.Memory == 0:
	case maxRSS >= s.Memory:
		e.OOM, e.Reason = true, fmt.Sprintf("over the memory limit of %d MiB", s.Memory>>20)
	default:
		e.Reason = "killed by someone else, or over the memory limit together with other processes of the jail"
	}
}

func (m *Manager) vanished(jid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, s := range m.jails {
		if s.jid == jid && !s.gone && !s.killed {
			s.gone = true
			go func() { m.removed <- name }() // the reader may be busy
		}
	}
}

// tick is what no event tells.
func (m *Manager) tick() {
	m.reapOrphans()
	if !m.events {
		for _, jid := range m.jids() {
			_, _, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "jid", Value: bsd.Word(jid)}}, 0)
			if errors.Is(err, unix.ENOENT) {
				m.vanished(jid)
			}
		}
	}
	m.enforceMemory()
}

func (m *Manager) watchesMemory() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.jails {
		if s.Memory > 0 {
			return true
		}
	}
	return false
}
