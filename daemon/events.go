package daemon

import (
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// keepEvents is how many events a late reader can still get.
const keepEvents = 1024

// eventLog keeps the newest events and wakes those who follow them. An event's
// number is its time in microseconds or more, so that numbers grow over
// restarts, and a reader may begin with the time of its own start.
type eventLog struct {
	mu    sync.Mutex
	last  uint64
	ring  []client.Event
	waked chan struct{}
}

func newEventLog() *eventLog { return &eventLog{waked: make(chan struct{})} }

func (l *eventLog) add(e client.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.At = time.Now()
	e.Seq = max(l.last+1, uint64(e.At.UnixMicro()))
	l.last = e.Seq
	if len(l.ring) == keepEvents {
		l.ring = append(l.ring[:0], l.ring[1:]...)
	}
	l.ring = append(l.ring, e)
	close(l.waked)
	l.waked = make(chan struct{})
}

// since returns the events after a number and a channel that closes at the
// next one.
func (l *eventLog) since(after uint64) ([]client.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.ring)
	for i > 0 && l.ring[i-1].Seq > after {
		i--
	}
	return append([]client.Event(nil), l.ring[i:]...), l.waked
}

// event tells something about a task to whoever follows it, and to the log. It
// is one line, whatever others have written in it.
func (d *Daemon) event(taskID, kind, message string) {
	var labels map[string]string
	d.mu.Lock()
	if t, ok := d.tasks[taskID]; ok {
		labels = t.info.Spec.Labels
	}
	d.mu.Unlock()
	d.addEvent(taskID, kind, message, labels)
}

// tell is event for a task whose id may be another one's by now.
func (d *Daemon) tell(t *task, kind, message string) {
	d.addEvent(t.id(), kind, message, t.info.Spec.Labels)
}

func (d *Daemon) addEvent(taskID, kind, message string, labels map[string]string) {
	message = printable.Flat(message)
	d.log.Info(message, "task", taskID, "kind", kind)
	d.events.add(client.Event{Task: taskID, Kind: kind, Message: message, Labels: labels})
}
