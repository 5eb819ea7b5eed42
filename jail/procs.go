package jail

import (
	"fmt"
	"sync"
	"syscall"
	"time"
)

// procs are the processes that a manager watches. A process is forgotten when
// its end has been asked for and told.
type procs struct {
	mu sync.Mutex
	m  map[int]*proc // by pid

	still sync.RWMutex // held for reading from before a child is collected until its end is told
}

type proc struct {
	jail    string
	backend procState
	exit    *Exit
	waiters []func(Exit)    // which return at once
	lookers []chan struct{} // of watch
	unasked bool            // nobody will ask how it ended
}

func (t *procs) add(pid int, p proc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(pid, &p)
}

func (t *procs) put(pid int, p *proc) {
	if t.m == nil {
		t.m = map[int]*proc{}
	}
	if old := t.m[pid]; old != nil && old.exit == nil {
		p.lookers = old.lookers
	}
	t.m[pid] = p
}

// watch returns a channel that closes when a process ends, and takes nothing from
// those who ask how. It is nil for one that has ended. A process that was not known
// is from now on.
func (t *procs) watch(pid int, jail string) (ended <-chan struct{}, isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, known := t.m[pid]
	if !known {
		p = &proc{jail: jail, unasked: true}
		t.put(pid, p)
	}
	if p.exit != nil {
		return nil, false
	}
	c := make(chan struct{})
	p.lookers = append(p.lookers, c)
	return c, !known
}

// get returns a process that has not ended.
func (t *procs) get(pid int) (proc, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.m[pid]
	if !ok || p.exit != nil {
		return proc{}, false
	}
	return *p, true
}

// tell hands the end of a process to all who wait for it.
func (t *procs) tell(pid int, e Exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.m[pid]
	if !ok || p.exit != nil {
		return
	}
	p.exit = &e
	for _, f := range p.waiters {
		f(e)
	}
	for _, c := range p.lookers {
		close(c)
	}
	if len(p.waiters) > 0 || p.unasked {
		delete(t.m, pid)
	}
}

// wait returns a channel that tells the end of a process once.
func (t *procs) wait(pid int) <-chan Exit {
	c := make(chan Exit, 1)
	t.onExit(pid, func(e Exit) { c <- e })
	return c
}

// onExit has f called once when a process has ended. f is to return at once.
func (t *procs) onExit(pid int, f func(Exit)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.m[pid]
	switch {
	case !ok:
		f(Exit{Reason: fmt.Sprintf("process %d is not known", pid), At: time.Now()})
	case p.exit != nil:
		f(*p.exit)
		delete(t.m, pid)
	default:
		p.waiters = append(p.waiters, f)
	}
}

// exitOf translates a wait status.
func exitOf(ws syscall.WaitStatus) Exit {
	e := Exit{Known: true, At: time.Now()}
	if ws.Signaled() {
		e.Signal, e.Code = int(ws.Signal()), 128+int(ws.Signal())
	} else {
		e.Code = ws.ExitStatus()
	}
	return e
}
