// Package keylock has locks that are known by names, for which a caller waits
// no longer than its context lasts.
package keylock

import (
	"context"
	"sync"
)

// Map is a set of locks, of which those exist that are held or waited for. The
// zero value is ready.
type Map struct {
	mu    sync.Mutex
	locks map[string]*entry
}

type entry struct {
	held  chan struct{} // has one place
	users int           // who holds it or waits for it
}

// Lock waits for a name's lock and returns what gives it back, or the
// context's error.
func (m *Map) Lock(ctx context.Context, name string) (unlock func(), err error) {
	m.mu.Lock()
	e := m.locks[name]
	if e == nil {
		if m.locks == nil {
			m.locks = map[string]*entry{}
		}
		e = &entry{held: make(chan struct{}, 1)}
		m.locks[name] = e
	}
	e.users++
	m.mu.Unlock()
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; m.leave(name, e) }, nil
	case <-ctx.Done():
		m.leave(name, e)
		return nil, context.Cause(ctx)
	}
}

func (m *Map) leave(name string, e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(m.locks, name)
	}
}
