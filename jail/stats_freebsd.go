package jail

import (
	"strconv"
	"time"

	"github.com/freejail/freejail/internal/bsd"
)

// StartTime tells processes apart that had the same pid one after another.
func StartTime(pid int) (string, error) {
	p, err := bsd.FindProcess(pid)
	if err != nil {
		return "", err
	}
	d, err := p.Started()
	return strconv.FormatInt(d.Microseconds(), 10), err
}

// startedAt compares with what StartTime told. The clock's steps are rounded
// by a microsecond or two.
func startedAt(p bsd.Process, start string) bool {
	want, err := strconv.ParseInt(start, 10, 64)
	if err != nil {
		return false
	}
	got, err := p.Started()
	return err == nil && (got-time.Duration(want)*time.Microsecond).Abs() < 10*time.Millisecond
}

// Stats samples all jails in one pass over the host's processes.
func (m *Manager) Stats() (map[string]Usage, error) {
	byJID := map[int]*Usage{}
	m.mu.Lock()
	jails := make(map[string]state, len(m.jails))
	for name, s := range m.jails {
		jails[name], byJID[s.jid] = *s, &Usage{}
	}
	m.mu.Unlock()
	err := m.eachBorn(func(jid int, p bsd.Process) {
		if u := byJID[jid]; u != nil && !p.Zombie() {
			u.add(p)
		}
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]Usage, len(jails))
	for name, s := range jails {
		u := byJID[s.jid]
		if len(u.Procs) == 0 {
			continue
		}
		if u.Memory = m.looks.counted(s.jid); u.Memory == 0 {
			u.Memory = u.RSS + uint64(s.filesInMemory())
		}
		out[name] = *u
	}
	return out, nil
}

func (u *Usage) add(p bsd.Process) {
	one := ProcUsage{PID: p.PID(), Command: p.Command(), UserTime: p.UserTime(), SysTime: p.SysTime(), RSS: p.RSS()}
	u.Procs = append(u.Procs, one)
	u.RSS += one.RSS
	u.UserTime += one.UserTime + p.ChildrenUserTime()
	u.SysTime += one.SysTime + p.ChildrenSysTime()
}
