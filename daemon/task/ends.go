package task

import (
	"sync"

	"github.com/freejail/freejail/daemon/client"
)

// endings tell which tasks are over, as they are, to those who follow.
type endings struct {
	mu sync.Mutex
	to map[chan client.Ended]bool
}

// manyEnds is how many ends one who follows may be behind.
const manyEnds = 1024

// Ends gives the tasks that are over from now on. The channel is closed where they are not taken: some are missing
// then. stop is to be called in any case.
func (m *Manager) Ends() (ended <-chan client.Ended, stop func()) { return m.ends.follow() }

func (e *endings) follow() (ended <-chan client.Ended, stop func()) {
	c := make(chan client.Ended, manyEnds)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.to == nil {
		e.to = map[chan client.Ended]bool{}
	}
	e.to[c] = true
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.to, c)
	}
}

func (e *endings) tell(t client.Ended) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.to {
		select {
		case c <- t:
		default:
			delete(e.to, c)
			close(c)
		}
	}
}

// isOver tells all who wait for the task's end.
func (m *Manager) isOver(t *task) {
	t.isOver()
	m.ends.tell(client.Ended{ID: t.id(), Exit: howItEnded(t.snapshot())})
}

// Over tells how a task has ended; nil where it has not.
func (m *Manager) Over(id string) (*client.Exit, error) {
	t, err := m.find(id)
	if err != nil || !isClosed(t.done) {
		return nil, err
	}
	return howItEnded(t.snapshot()), nil
}
