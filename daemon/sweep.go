package daemon

import (
	"slices"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
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
func (d *Daemon) sweepUp(t *task) *walk {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sweeping.walk == nil {
		t.sweeping.walk = newWalk()
		go d.sweep(t, t.sweeping.walk)
	}
	return t.sweeping.walk
}

func (d *Daemon) sweep(t *task, w *walk) {
	err := t.root.unwind(func() error { return d.undoAll(t, w) })
	w.empty()
	t.mu.Lock()
	destroyed := t.destroyed
	t.mu.Unlock()
	if err == nil && destroyed {
		err = d.forget(t)
	}
	d.swept(t, err)
	close(w.done)
}

// swept notes how a walk ended, and tells what is new of it.
func (d *Daemon) swept(t *task, err error) {
	t.mu.Lock()
	s := &t.sweeping
	before, now := s.trouble, ""
	if err != nil {
		now = err.Error()
		s.tries++
	}
	s.walk, s.trouble, s.again = nil, now, time.Now().Add(min(sweepAgain<<min(s.tries, 10), sweepSeldom))
	t.mu.Unlock()
	switch {
	case now == before:
	case now == "":
		d.tell(t, "cleanup", "what was left of it is gone")
	default:
		d.tell(t, "cleanup", "not wholly swept up yet, trying again: "+now)
	}
}

// lane lets few tasks be swept up at once. One that the kernel holds does not
// keep others waiting for long.
type lane chan struct{}

func (l lane) enter() (leave func()) {
	l <- struct{}{}
	once := sync.OnceFunc(func() { <-l })
	held := time.AfterFunc(awayTime, once)
	return func() { held.Stop(); once() }
}

// undoAll takes the steps of a start back. One that cannot be taken back now
// stays on the stack, with all below it.
func (d *Daemon) undoAll(t *task, w *walk) error {
	leave := func() {}
	defer func() { leave() }()
	for busy := false; ; {
		t.mu.Lock()
		n, alive := len(t.undos), t.began("jail")
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
			leave, busy = d.lane.enter(), true
		}
		if err := d.takeBack(t, u); err != nil {
			return err
		}
	}
}

// letGo frees the id of a task that is to be forgotten: what it has on the host
// is its key's from now on.
func (d *Daemon) letGo(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.forgotten {
		return
	}
	if d.tasks[t.id()] == t {
		delete(d.tasks, t.id())
	}
	d.left[t.key()] = t
}

// stray is what no journal tells of: it is swept up like what is left of a task.
func (d *Daemon) stray(key string, undos ...undo) *walk {
	t := &task{done: make(chan struct{}), destroyed: true, finished: true, undos: undos, root: localRoot{d}}
	t.info = client.Task{Spec: client.TaskSpec{ID: key}, Key: key, Jail: jailOf(key), State: client.Exited,
		CreatedAt: time.Now(), Exit: &client.Exit{Message: "no journal tells of it"}}
	t.isOver()
	d.mu.Lock()
	d.left[key] = t
	d.mu.Unlock()
	return d.sweepUp(t)
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

// holder finds the task of a key.
func (d *Daemon) holder(key string) (*task, bool) {
	all := d.all()
	i := slices.IndexFunc(all, func(t *task) bool { return t.key() == key })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

func (t *task) troubled() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sweeping.trouble
}

// checkLeft names what could not be removed.
func (d *Daemon) checkLeft(c *host.Checks) {
	for _, t := range d.all() {
		if trouble := t.troubled(); trouble != "" {
			c.Warn("leftovers", trouble, "the daemon tries again by itself; "+endThat)
		}
	}
	for _, s := range d.openStores() {
		for _, what := range s.Leftovers() {
			c.Warn("leftovers", what, "the next daemon tries again; "+endThat)
		}
	}
}

const endThat = "where a process, a mount, a snapshot or the host's securelevel keeps it, end that"
