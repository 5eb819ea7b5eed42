package jail

import (
	"sync"

	"github.com/freejail/freejail/internal/bsd"
)

// unborn are the children of ours that do not run their program yet. Until then
// they are copies of this process, with its memory: attached to a jail or not,
// they are no part of what it uses.
type unborn struct {
	forking sync.RWMutex // held for reading from a fork until its child is in pids

	mu   sync.Mutex
	pids map[int]bool
}

func (u *unborn) add(pid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pids == nil {
		u.pids = map[int]bool{}
	}
	u.pids[pid] = true
}

func (u *unborn) remove(pid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.pids, pid)
}

// eachBorn is eachOfJails without them.
func (m *Manager) eachBorn(f func(jid int, p bsd.Process)) error {
	u := &m.unborn
	u.forking.Lock()
	defer u.forking.Unlock()
	u.mu.Lock() // what is born while the list is made is left out too
	defer u.mu.Unlock()
	return m.eachOfJails(func(jid int, p bsd.Process) {
		if !u.pids[p.PID()] {
			f(jid, p)
		}
	})
}
