package fleet

import (
	"context"
	"sync"
	"time"
)

// link is a wire whose flows have a piece on it in turn, so that they share it evenly.
type link struct {
	mu   sync.Mutex
	rate float64 // bytes a second
	free time.Time
}

// take is when the last of n bytes is through.
func (l *link) take(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return l.free
}

func (l *link) set(rate float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = rate
}

func (l *link) now() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

// piece is how much one of so many flows has on the wire in a turn, which takes about so long.
func (l *link) piece(flows int, turn time.Duration) int {
	n := l.now() * turn.Seconds() / float64(max(flows, 1))
	return int(min(max(n, 4<<10), 8<<20))
}

// until sleeps to a time, or returns why the context ended; also is another end of the sleep.
func until(ctx context.Context, at time.Time, also <-chan struct{}) error {
	wait := time.NewTimer(time.Until(at))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-also:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
