package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/storage"
)

const (
	// diskTick is the least time between two looks at a file system, and diskTicks
	// the most.
	diskTick, diskTicks = 250 * time.Millisecond, 2 * time.Second
	// diskSpeed, in bytes a second, is more than disks can be filled with: who has
	// much room left is looked at less often.
	diskSpeed = 4 << 30
	// diskAge is after how long a root is measured even if little was written: what
	// others free hides what a task takes.
	diskAge = 10 * time.Second
	// diskEntry is how long each entry of a directory has: all measurements together
	// go through 50,000 entries a second, which takes about a tenth of one core.
	diskEntry = 20 * time.Microsecond
)

// metered are the storage drivers whose roots no quota limits.
type metered interface {
	Meter(task string) (*storage.Meter, error)
}

// boundDisk gives a task the limit that it asks for, within the host's, or the
// host's.
func (m *Manager) boundDisk(l *client.Limits) error {
	if l.MaxProcs < 0 {
		return client.Invalid("limits: the number of processes %d is negative (pids_limit of a job)", l.MaxProcs)
	}
	most := m.Config.Limits.DiskMax
	switch n := l.DiskBytes; {
	case n == 0:
		l.DiskBytes = cmp.Or(m.Config.Limits.Disk, most)
	case n < storage.MinDisk:
		return client.Invalid("disk: a limit of %d bytes is too small: at least 1MiB", n)
	case most > 0 && n > most:
		return client.Invalid("disk: the task asks for %s, and this host gives a task at most %s "+
			"(limits { disk_max } in its configuration)",
			units.BytesSize(float64(n)), units.BytesSize(float64(most)))
	}
	return nil
}

// jailLimits are the limits that are the jail's matter.
func (m *Manager) jailLimits(l client.Limits) jail.Limits {
	if l.CPUSet == "" {
		l.CPUSet = m.processors(l.CPUSetOf)
	}
	return jail.Limits{MemoryBytes: l.MemoryBytes, MemoryReserveBytes: l.MemoryReserveBytes, CPUShares: l.CPUShares,
		CPUPercent: l.CPUPercent, MaxProcs: l.MaxProcs, OpenFiles: l.OpenFiles, CPUSet: l.CPUSet}
}

// turns has those who measure take turns, so that what they cost together has a
// bound, however many they are and however much there is to be measured.
type turns struct {
	mu   sync.Mutex
	next time.Time
}

var errEnded = errors.New("the task has ended")

// wait returns when it is the turn of who went through some entries, or with an
// error when its task has ended.
func (w *turns) wait(entries int, ended <-chan struct{}) error {
	w.mu.Lock()
	at := time.Now()
	if w.next.After(at) {
		at = w.next
	}
	w.next = at.Add(time.Duration(entries) * diskEntry)
	w.mu.Unlock()
	select {
	case <-ended:
		return errEnded
	case <-time.After(time.Until(at)):
		return nil
	}
}

// watchDisk ends a task that writes more than it may, where the file system does
// not keep it from that.
func (m *Manager) watchDisk(t *task) {
	i := t.snapshot()
	if i.OverDisk != "" { // the last daemon was about to
		m.endOver(t)
		return
	}
	store, err := m.Stores(i.Storage)
	roots, measured := store.(metered)
	if err != nil || !measured || i.Spec.Limits.DiskBytes == 0 {
		return
	}
	meter, err := roots.Meter(t.key())
	if err != nil {
		m.Event(t.id(), "limits", "its disk limit is not enforced: "+err.Error())
		return
	}
	w := &diskWatch{meter: meter, limit: i.Spec.Limits.DiskBytes, ended: t.done,
		pause: func(n int) error { return m.turns.wait(n, t.done) },
		tell:  func(used int64) { t.set(func(i *client.Task) { i.Written = used }) },
		warn:  func(err error) { m.Log.Warn("disk limit", "task", t.id(), "error", err) },
		over: func(why string) {
			m.note(t, "reason of its end", func(i *client.Task) { i.OverDisk = why })
			fault("disk", "journalled")
			m.endOver(t)
		}}
	w.watch()
}

// endOver kills a task over its limit, as a stop without a timeout does.
func (m *Manager) endOver(t *task) {
	m.deregister(context.Background(), t)
	m.kill(t)
}

// overDisk has an exit tell why the daemon killed the task.
func (t *task) overDisk(e client.Exit) client.Exit {
	if over := t.snapshot().OverDisk; over != "" {
		e.Code, e.Signal, e.Known, e.OOM = 128+int(syscall.SIGKILL), int(syscall.SIGKILL), true, false
		e.Disk, e.Message = true, over
	}
	return e
}

// meter measures a root; see storage.Meter.
type meter interface {
	Free() (int64, error)
	Measure(limit int64, pause func(entries int) error) (int64, error)
	Close() error
}

// diskWatch looks at one task's root.
type diskWatch struct {
	meter meter
	limit int64
	ended <-chan struct{} // closed when its task has ended
	pause func(entries int) error
	tell  func(used int64)
	warn  func(error)
	over  func(why string) // ends the task that is over its limit

	failure string    // that was warned of last
	at      time.Time // of the last measurement
	free    int64     // in the file system, then
	room    int64     // that the task had left, then
}

// watch looks, and is called again when it is time to, until the task has ended or is over its limit: between looks
// nothing stands still for it.
func (w *diskWatch) watch() {
	if isClosed(w.ended) {
		_ = w.meter.Close() // nothing was written by it
		return
	}
	over, err := w.look(time.Now())
	switch {
	case over != "":
		w.over(over)
		fallthrough
	case errors.Is(err, errEnded):
		_ = w.meter.Close() // as above
		return
	case err != nil && err.Error() != w.failure:
		w.failure = err.Error()
		w.warn(err)
	}
	time.AfterFunc(w.until(), w.watch)
}

func (w *diskWatch) look(now time.Time) (over string, err error) {
	free, err := w.meter.Free()
	if err != nil || !w.due(now, free) {
		return "", err
	}
	used, err := w.meter.Measure(w.limit, w.pause)
	w.tell(used)
	limit := units.BytesSize(float64(w.limit))
	switch {
	case errors.Is(err, storage.ErrUncountable):
		return fmt.Sprintf("its disk limit of %s cannot be kept: %v", limit, err), nil
	case err != nil:
		return "", err
	case used > w.limit:
		return fmt.Sprintf("over its disk limit of %s", limit), nil
	}
	w.at, w.free, w.room = now, free, w.limit-used
	return "", nil
}

// until is how long the task cannot use up the room that it had.
func (w *diskWatch) until() time.Duration {
	return min(max(time.Duration(float64(w.room)/diskSpeed*1e9), diskTick), diskTicks)
}

// due tells that a part of the room which the task had may be written to, or that
// it is time for a look since anything changed.
func (w *diskWatch) due(now time.Time, free int64) bool {
	if w.at.IsZero() || w.free-free > w.room/8 {
		return true
	}
	return free != w.free && now.Sub(w.at) >= diskAge
}
