package driver

import (
	"context"
	"errors"
	"sync"

	"github.com/freejail/freejail/daemon/client"
)

// taskEnds waits for the ends of all tasks by one connection: one for each would take the daemon and the plugin some
// 150 KiB a task.
type taskEnds struct {
	daemon func() *client.Client
	// away is called while the daemon does not answer, with the reason.
	away func(context.Context, error)

	mu      sync.Mutex
	waiting map[*waiter]bool
	stop    context.CancelFunc // of who follows; nil while nobody waits
	older   bool               // the daemon is of a version that tells each end by a connection of its own
	asking  chan struct{}      // bounds how many ask at once when a daemon is back
}

// waiter waits for the end of one task.
type waiter struct {
	id   string
	over chan *client.Exit // nil is that it is to ask
}

func newTaskEnds(daemon func() *client.Client, away func(context.Context, error)) *taskEnds {
	return &taskEnds{daemon: daemon, away: away, waiting: map[*waiter]bool{}, asking: make(chan struct{}, 8)}
}

// wait returns how a task has ended, once it has, or why the daemon cannot tell.
func (t *taskEnds) wait(ctx context.Context, id string) (*client.Exit, error) {
	w := &waiter{id, make(chan *client.Exit, 1)}
	t.join(w)
	defer t.leave(w)
	for {
		e, err := t.ask(ctx, id)
		if e != nil || err != nil {
			return e, err
		}
		select {
		case e := <-w.over:
			if e != nil {
				return e, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *taskEnds) ask(ctx context.Context, id string) (*client.Exit, error) {
	if t.isOlder() {
		return t.daemon().Wait(ctx, id)
	}
	select {
	case t.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-t.asking }()
	return t.daemon().Over(ctx, id)
}

func (t *taskEnds) isOlder() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.older
}

func (t *taskEnds) join(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[w] = true
	if t.stop == nil {
		var ctx context.Context
		ctx, t.stop = context.WithCancel(context.Background())
		go t.follow(ctx)
	}
}

func (t *taskEnds) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.waiting, w); len(t.waiting) == 0 {
		t.stop()
		t.stop = nil
	}
}

// follow passes on what the daemon tells until nobody waits. Whenever it begins to, all ask once, as what has ended
// before is not told.
func (t *taskEnds) follow(ctx context.Context) {
	for {
		err, pause := t.daemon().Ends(ctx, func() { t.all(false) }, t.tell), retryEvery
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, client.ErrOlder) {
			if !t.isOlder() {
				t.all(true)
			}
			pause = fingerprintEvery // it may be upgraded
		}
		if !client.Pause(ctx, pause) {
			return
		}
		if pause == retryEvery {
			t.away(ctx, err)
		}
	}
}

// all has everyone ask.
func (t *taskEnds) all(older bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.older = older
	for w := range t.waiting {
		w.tell(nil)
	}
}

func (t *taskEnds) tell(e client.Ended) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.waiting {
		if w.id == e.ID {
			w.tell(e.Exit)
		}
	}
}

// tell does not wait: who is to ask, and has not, need not be told that again, and an end replaces that.
func (w *waiter) tell(e *client.Exit) {
	select {
	case w.over <- e:
		return
	default:
	}
	if e == nil {
		return
	}
	select {
	case <-w.over:
	default:
	}
	w.over <- e
}
