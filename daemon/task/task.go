package task

import (
	"cmp"
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/network"
)

// task is one task of this host, from its start until it is destroyed.
type task struct {
	mu         sync.Mutex
	info       client.Task
	cancel     context.CancelCauseFunc // ends the start; nil when there is none to end
	boot       string                  // of the host, in which it was started; empty in journals of older daemons
	recovered  atomic.Bool             // or started by this daemon
	hostEnds   bool                    // it was told to end with the host
	pidStart   string                  // when the process started, against reuse of its pid
	user       *image.Creds            // as whom the process was started; nil in journals of older daemons
	endpoint   *network.Endpoint       // of a network; nil on the host's
	undos      []undo
	journal    *journal
	root       root
	forgetting sync.Mutex
	forgotten  bool  // by forgetting
	before     *task // in whose place it is being started; guarded by the manager's lock
	destroyed  bool
	finished   bool          // its end is being recorded, or is
	stray      bool          // no journal tells of it
	ended      bool          // its end is recorded: what exited is not its main process alone
	outlived   bool          // processes that its main process had left were killed
	done       chan struct{} // closed when its end is told
	once       sync.Once     // for done
	sweeping   sweeping
	outputs    [2]*output // as streams
	cpus       string     // that its jail was made for; empty where that is not known, or all
	input      *os.File   // the master of its terminal, or a pipe; nil where it has none
	clients    clients
	kill       *due          // when it is killed; nil without a stop
	hasten     chan struct{} // tells who waits for that of an earlier one; nil while nobody does
}

var validID = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,59}$`)

// jailPrefix marks the jails of freejail. With the letter that an id begins
// with it keeps the kernel from taking a name for a number.
const jailPrefix = "fj-"

func (t *task) id() string { return t.info.Spec.ID }

// validKey is an id, or one and a number.
var validKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,59}(\.[1-9][0-9]{0,8})?$`)

// key names what the task has on this host, and does not change; it is the id in
// journals of older daemons.
func (t *task) key() string { return cmp.Or(t.info.Key, t.id()) }

// jailOf is the name of a key's jail: a dot would make it another jail's child.
func jailOf(key string) string { return jailPrefix + strings.Replace(key, ".", "+", 1) }

func keyOfJail(name string) string {
	return strings.Replace(strings.TrimPrefix(name, jailPrefix), "+", ".", 1)
}

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

// isEnded tells that it has ended and is not to be forgotten.
func (t *task) isEnded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info.State == client.Exited && !t.destroyed
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
	return t.journal.write(record{Task: &t.info, PIDStart: t.pidStart, User: t.user, Ended: t.ended, Kill: t.kill})
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
		return &client.Exit{Message: "exit status unknown"}
	}
	return i.Exit
}

// begin journals that a step is to be taken back.
func (t *task) begin(u undo) error {
	t.mu.Lock()
	t.undos = append(t.undos, u)
	t.mu.Unlock()
	return t.journal.write(record{Undo: &u})
}

// undone journals that the newest step was taken back.
func (t *task) undone() error {
	t.mu.Lock()
	t.undos = t.undos[:len(t.undos)-1]
	t.mu.Unlock()
	return t.journal.write(record{Undone: true})
}

// began tells whether a step is to be taken back. The caller holds the lock.
func (t *task) began(op string) bool {
	return slices.ContainsFunc(t.undos, func(u undo) bool { return u.Op == op })
}
