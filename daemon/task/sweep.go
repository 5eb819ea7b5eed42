package task

import (
	"context"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// What a task that has ended still has on the host is taken away behind its end.
// What the kernel holds, a dying jail or a server that is away, keeps neither the
// end from being told nor the id from the next task: it has a key of its own.

const (
	// sweepers are how many tasks are swept up at once.
	sweepers = 8
	// sweepTime is longer than a jail's processes are given to die.
	sweepTime = 25 * time.Second
	// awayTime is for what is known to need a server which is away, and for how
	// long an end waits for processes that do not die.
	awayTime = 5 * time.Second
	// sweepAgain and sweepSeldom are the least and the most time after which what
	// could not be removed is tried again.
	sweepAgain, sweepSeldom = 2 * time.Second, 5 * time.Minute
)

// sweeping is how the sweeping up of a task goes. The task's lock guards it.
type sweeping struct {
	walk    *walk  // that is under way
	trouble string // of the last one
	tries   int    // that failed
	again   time.Time
}

// walk is one walk down the undo stack of a task.
type walk struct {
	empty func()        // closes emptied
	done  chan struct{} // closed when it is over

	emptied chan struct{} // closed when no process of the task is left
}

func newWalk() *walk {
	w := &walk{done: make(chan struct{}), emptied: make(chan struct{})}
	w.empty = sync.OnceFunc(func() { close(w.emptied) })
	return w
}

// sweepUp begins to take from the host what a task has there, unless somebody has
// begun: one walk a task at a time.
func (m *Manager) sweepUp(t *task) *walk {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sweeping.walk == nil {
		t.sweeping.walk = newWalk()
		go m.sweep(t, t.sweeping.walk)
	}
	return t.sweeping.walk
}

func (m *Manager) sweep(t *task, w *walk) {
	err := t.root.unwind(func() error { return m.undoAll(t, w) })
	w.empty()
	t.mu.Lock()
	destroyed := t.destroyed
	t.mu.Unlock()
	if err == nil && destroyed {
		err = m.forget(t)
	}
	m.swept(t, err)
	close(w.done)
}

// swept notes how a walk ended, and tells what is new of it.
func (m *Manager) swept(t *task, err error) {
	t.mu.Lock()
	s := &t.sweeping
	before, now := s.trouble, ""
	if err != nil {
		now = err.Error()
		s.tries++
	}
	found := ""
	switch {
	case t.stray:
		found = "stray"
	case before != "":
		found = "retry"
	}
	s.walk, s.trouble, s.again = nil, now, time.Now().Add(min(sweepAgain<<min(s.tries, 10), sweepSeldom))
	t.mu.Unlock()
	m.Record.Swept(found, err)
	switch {
	case now == before:
	case now == "":
		m.tell(t, "cleanup", "all that was left of it is removed")
	default:
		m.tell(t, "cleanup", "cleanup incomplete, trying again: "+now)
	}
}

// lane lets few tasks be started, or swept up, at once. One that the kernel holds does not
// keep others waiting for long.
type lane chan struct{}

// enter waits for a turn, unless ctx ends. It is over after most: whoever takes longer waits for something itself.
func (l lane) enter(ctx context.Context, most time.Duration) (leave func(), err error) {
	select {
	case l <- struct{}{}:
	case <-ctx.Done():
		return func() {}, context.Cause(ctx)
	}
	once := sync.OnceFunc(func() { <-l })
	held := time.AfterFunc(most, once)
	return func() { held.Stop(); once() }, nil
}

// undoAll takes the steps of a start back. One that cannot be taken back now
// stays on the stack, with all below it.
func (m *Manager) undoAll(t *task, w *walk) error {
	leave := func() {}
	defer func() { leave() }()
	for busy := false; ; {
		t.mu.Lock()
		n, alive := len(t.undos), t.began("jail") || t.began("publish")
		var u undo
		if n > 0 {
			u = t.undos[n-1]
		}
		t.mu.Unlock()
		if n == 0 {
			return nil
		}
		if !alive && !busy { // what comes now is work, not a wait for processes
			w.empty()
			leave, _ = m.lane.enter(context.Background(), awayTime) // which does not end
			busy = true
		}
		if err := m.takeBack(t, u); err != nil {
			return err
		}
	}
}

// letGo frees the id of a task that is to be forgotten: what it has on the host
// is its key's from now on.
func (m *Manager) letGo(t *task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.forgotten {
		return
	}
	m.takeOut(t)
	m.left[t.key()] = t
}

// takeOut frees the id of a task, or gives it back to the one in whose place it was to be. The caller holds the lock.
func (m *Manager) takeOut(t *task) {
	switch {
	case m.tasks[t.id()] != t:
	case t.before != nil:
		m.tasks[t.id()] = t.before
	default:
		delete(m.tasks, t.id())
	}
}

// stray is what no journal tells of: it is swept up like what is left of a task.
func (m *Manager) stray(key string, undos ...undo) *walk {
	t := &task{done: make(chan struct{}), destroyed: true, finished: true, stray: true, undos: undos,
		root: localRoot{m}}
	t.info = client.Task{ID: key, Spec: client.TaskSpec{ID: key}, Key: key, Jail: jailOf(key), State: client.Exited,
		CreatedAt: time.Now(), Exit: &client.Exit{Message: "no journal tells of it"}}
	t.isOver()
	m.mu.Lock()
	m.left[key] = t
	m.mu.Unlock()
	return m.sweepUp(t)
}

// remains tells, in words, what of a task that has ended is still on the host.
func (t *task) remains() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.info.State != client.Exited || len(t.undos) == 0 && !t.destroyed:
		return ""
	case t.sweeping.trouble != "":
		return t.sweeping.trouble
	}
	return "it is being removed"
}

// due tells that a task is to be swept up, again or at all.
func (t *task) due(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info.State == client.Exited && (len(t.undos) > 0 || t.destroyed) && t.sweeping.walk == nil &&
		now.After(t.sweeping.again)
}

// Troubles are what could not be removed of tasks that have ended.
func (m *Manager) Troubles() (out []string) {
	for _, t := range m.all() {
		t.mu.Lock()
		if text := t.sweeping.trouble; text != "" {
			out = append(out, text)
		}
		t.mu.Unlock()
	}
	return out
}
