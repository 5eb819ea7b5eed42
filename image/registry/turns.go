package registry

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"
)

// How many pulls of this process go on at once. Each holds an image's documents.
// One registry that is slow leaves room for others.
const (
	maxPulls     = 16
	maxHostPulls = 8
)

var pulls = &turns{all: semaphore.NewWeighted(maxPulls), hosts: map[string]*hostTurns{}}

// turns are taken by who pulls.
type turns struct {
	all   *semaphore.Weighted
	mu    sync.Mutex
	hosts map[string]*hostTurns // of which someone pulls, or waits to
}

type hostTurns struct {
	*semaphore.Weighted
	users int
}

// take waits for a turn until the context ends.
func (t *turns) take(ctx context.Context, host string) (release func(), err error) {
	h := t.enter(host)
	if err := h.Acquire(ctx, 1); err != nil {
		t.leave(host)
		return nil, waited(err)
	}
	if err := t.all.Acquire(ctx, 1); err != nil {
		h.Release(1)
		t.leave(host)
		return nil, waited(err)
	}
	return func() {
		t.all.Release(1)
		h.Release(1)
		t.leave(host)
	}, nil
}

func waited(err error) error { return errors.Join(errors.New("waiting for other pulls to end"), err) }

func (t *turns) enter(host string) *hostTurns {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[host]
	if h == nil {
		h = &hostTurns{Weighted: semaphore.NewWeighted(maxHostPulls)}
		t.hosts[host] = h
	}
	h.users++
	return h
}

func (t *turns) leave(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hosts[host].users--; t.hosts[host].users == 0 {
		delete(t.hosts, host)
	}
}
