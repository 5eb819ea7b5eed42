package daemon

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// task is one task of this host, from its start until it is destroyed.
type task struct {
	mu         sync.Mutex
	info       client.Task
	cancel     context.CancelCauseFunc // ends the start; nil when there is none to end
	boot       string                  // of the host, in which it was started; empty in journals of older daemons
	hostEnds   bool                    // it was told to end with the host
	pidStart   string                  // when the process started, against reuse of its pid
	user       *image.Creds            // as whom the process was started; nil in journals of older daemons
	undos      []undo
	journal    *journal
	forgetting sync.Mutex
	forgotten  bool // by forgetting
	destroyed  bool
	finished   bool          // its end is being recorded, or is
	done       chan struct{} // closed when exited and swept up, as far as the kernel lets us
	once       sync.Once     // for done
	sweep      sync.Mutex    // one walk down the undo stack at a time
	trouble    string        // the janitor's last with it
	outputs    map[string]*output
}

var validID = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,59}$`)

// jailPrefix marks the jails of freejail. With the letter that an id begins
// with it keeps the kernel from taking a name for a number.
const jailPrefix = "fj-"

func (t *task) id() string { return t.info.Spec.ID }

// snapshot is a copy that stays as it is.
func (t *task) snapshot() client.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info
}

// startedAs is a snapshot with the user of the process.
func (t *task) startedAs() (client.Task, *image.Creds) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info, t.user
}

func (t *task) state() client.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info.State
}

// set changes the task; the next update journals it.
func (t *task) set(f func(*client.Task)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.info)
}

// update changes the task and journals it.
func (t *task) update(f func(*client.Task)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.info)
	return t.journal.write(record{Task: &t.info, PIDStart: t.pidStart, User: t.user})
}

// stopStart is false where there was no start to end.
func (t *task) stopStart() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel == nil {
		return false
	}
	t.cancel(stopped(t.id()))
	return true
}

// started ends the time in which the start can be ended, unless it was.
func (t *task) started(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	t.cancel = nil
	return nil
}

func (t *task) isOver() { t.once.Do(func() { close(t.done) }) }

// over waits for the end and returns how it was.
func (t *task) over(ctx context.Context) (*client.Exit, error) {
	select {
	case <-t.done:
		return howItEnded(t.snapshot()), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// howItEnded is never nil.
func howItEnded(i client.Task) *client.Exit {
	if i.Exit == nil {
		return &client.Exit{Message: "how it ended is not known"}
	}
	return i.Exit
}

// step journals how to take a step back, then takes it, unless ctx has ended.
func (t *task) step(ctx context.Context, u undo, do func() error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	t.undos = append(t.undos, u)
	t.mu.Unlock()
	if err := t.journal.write(record{Undo: &u}); err != nil {
		return err
	}
	fault(u.Op, "journalled")
	if err := do(); err != nil {
		return err
	}
	fault(u.Op, "done")
	return nil
}

// unwind walks the undo stack down. A step that cannot be undone now stays on
// it, with all below it, for the janitor.
func (d *Daemon) unwind(ctx context.Context, t *task) error {
	if t.overNFS() {
		return d.unwindBounded(ctx, t)
	}
	t.sweep.Lock()
	defer t.sweep.Unlock()
	return d.walkDown(ctx, t)
}

// sweepTime is longer than a jail's processes are given to die.
const sweepTime = 25 * time.Second

// awayTime is for a walk that is known to need a server which is away.
const awayTime = 5 * time.Second

// unwindBounded leaves a walk that the kernel holds to itself: it waits for a
// server, as nobody else may.
func (d *Daemon) unwindBounded(ctx context.Context, t *task) error {
	if !t.sweep.TryLock() {
		return fmt.Errorf("task %s: an unmount before still waits for the server of its root", t.id())
	}
	done := make(chan error, 1)
	go func() {
		defer t.sweep.Unlock()
		done <- errors.Join(d.nfs.Leave(t.id()), d.nfs.During(t.id(), func() error { return d.walkDown(context.WithoutCancel(ctx), t) }))
	}()
	limit := sweepTime
	if h, has := d.nfs.Of(t.id()); has && !h.OK() { // it has been waited for already
		limit = awayTime
	}
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("task %s: the kernel still waits for the server of its root", t.id())
	}
}

// overNFS tells whether anything of a task may lie on a server.
func (t *task) overNFS() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info.Storage == nfsStorage || t.began("nfs")
}

// began tells whether a step is to be taken back. The caller holds the lock.
func (t *task) began(op string) bool {
	return slices.ContainsFunc(t.undos, func(u undo) bool { return u.Op == op })
}

func (d *Daemon) walkDown(ctx context.Context, t *task) error {
	for {
		t.mu.Lock()
		n := len(t.undos)
		if n == 0 {
			t.mu.Unlock()
			return nil
		}
		u := t.undos[n-1]
		t.mu.Unlock()
		op, ok := d.undoOps()[u.Op]
		if !ok {
			return fmt.Errorf("task %s: the journal names a step %q that this version does not know", t.id(), u.Op)
		}
		if err := op(ctx, t, u.Arg); err != nil {
			return fmt.Errorf("task %s: undo %s %s: %w", t.id(), u.Op, u.Arg, err)
		}
		fault(u.Op, "undone")
		t.mu.Lock()
		t.undos = t.undos[:n-1]
		t.mu.Unlock()
		if err := t.journal.write(record{Undone: true}); err != nil {
			return err
		}
		fault(u.Op, "forgotten")
	}
}

func (d *Daemon) find(id string) (*task, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.tasks[id]; ok {
		return t, nil
	}
	return nil, client.Errorf(client.CodeNotFound, "there is no task %q on this host; see `freejail ps -a`", id)
}

// list returns the tasks in the order of their making.
func (d *Daemon) list() []*task {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*task, 0, len(d.tasks))
	for _, t := range d.tasks {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *task) int {
		return a.info.CreatedAt.Compare(b.info.CreatedAt)
	})
	return out
}

func invalid(format string, args ...any) error {
	return client.Errorf(client.CodeInvalid, format, args...)
}
