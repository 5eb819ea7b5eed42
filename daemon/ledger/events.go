package ledger

import (
	"errors"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// keepEvents is how many events a late reader can still get.
const keepEvents = 1024

// Events keeps the newest events and wakes those who follow them. Their numbers
// grow by one, over restarts of the daemon too, whatever the clock says.
type Events struct {
	mu      sync.Mutex
	last    uint64
	reserve func(last uint64) error // the numbers that follow; nil before begin
	ring    []client.Event
	waked   chan struct{}
}

// NewEvents has none, and numbers that do not last before Begin.
func NewEvents() *Events { return &Events{waked: make(chan struct{})} }

// eventBlock is how many numbers are reserved at once, on the disk.
const eventBlock = 1 << 20

// Begin goes on with the numbers where the last daemon ended, or one block later,
// also for the events that there are. Where the disk is full, later daemons may take
// the numbers again, which is the error: they are numbered all the same.
func (l *Events) Begin(from *Ledger) error {
	last, err := from.lastEvent()
	return errors.Join(err, l.begin(last, from.reserveEvents))
}

func (l *Events) begin(last uint64, reserve func(last uint64) error) error {
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

// Add returns an error where later daemons may take the event's number again.
func (l *Events) Add(e client.Event) (err error) {
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
func (l *Events) From(after uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(after, l.last)
}

// Since returns the events after a number and a channel that closes at the
// next one.
func (l *Events) Since(after uint64) ([]client.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.ring)
	for i > 0 && l.ring[i-1].Seq > after {
		i--
	}
	return append([]client.Event(nil), l.ring[i:]...), l.waked
}
