package daemon

import (
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// keepEvents is how many events a late reader can still get.
const keepEvents = 1024

// eventLog keeps the newest events and wakes those who follow them. Their numbers
// grow by one, over restarts of the daemon too, whatever the clock says.
type eventLog struct {
	mu      sync.Mutex
	last    uint64
	reserve func(last uint64) error // the numbers that follow; nil before begin
	ring    []client.Event
	waked   chan struct{}
}

func newEventLog() *eventLog { return &eventLog{waked: make(chan struct{})} }

// eventBlock is how many numbers are reserved at once, on the disk.
const eventBlock = 1 << 20

// begin numbers from after last on, also the events that there are.
func (l *eventLog) begin(last uint64, reserve func(last uint64) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.reserve = last, reserve
	err := reserve(last)
	for i := range l.ring {
		l.last++
		l.ring[i].Seq = l.last
	}
	return err
}

// add returns an error where later daemons may take the event's number again.
func (l *eventLog) add(e client.Event) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.At = time.Now()
	l.last++
	e.Seq = l.last
	if l.last%eventBlock == 0 && l.reserve != nil {
		err = l.reserve(l.last)
	}
	if len(l.ring) == keepEvents {
		l.ring = append(l.ring[:0], l.ring[1:]...)
	}
	l.ring = append(l.ring, e)
	close(l.waked)
	l.waked = make(chan struct{})
	return err
}

// From is the number that a reader begins after. One that no event has had yet is
// of a reader that took the time for it, as readers of older versions do: it is to
// get what comes.
func (l *eventLog) From(after uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(after, l.last)
}

// Since returns the events after a number and a channel that closes at the
// next one.
func (l *eventLog) Since(after uint64) ([]client.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.ring)
	for i > 0 && l.ring[i-1].Seq > after {
		i--
	}
	return append([]client.Event(nil), l.ring[i:]...), l.waked
}

// event tells something of the host.
func (d *Daemon) event(kind, message string) { d.addEvent("", kind, message, nil) }

// addEvent tells something of a task, or of the host, to whoever follows it, and to the
// log. It is one line, whatever others have written in it.
func (d *Daemon) addEvent(taskID, kind, message string, labels map[string]string) {
	message = printable.Flat(message)
	d.log.Info(message, "task", taskID, "kind", kind)
	if err := d.events.add(client.Event{Task: taskID, Kind: kind, Message: message, Labels: labels}); err != nil {
		d.log.Warn("events after a restart of the daemon may have numbers that there were", "error", err)
	}
}
