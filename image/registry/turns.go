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
	maxTaskPulls = 14 // of tasks
	maxStrangers = 12 // among those, from hosts that the configuration does not name
)

var pulls = newTurns()

func newTurns() *turns {
	return &turns{all: semaphore.NewWeighted(maxPulls), tasks: semaphore.NewWeighted(maxTaskPulls),
		strangers: semaphore.NewWeighted(maxStrangers), hosts: map[string]*hostTurns{}}
}

// turns are taken by who pulls.
type turns struct {
	all, tasks, strangers *semaphore.Weighted

	mu    sync.Mutex
	hosts map[string]*hostTurns // of which someone pulls, or waits to
}

type hostTurns struct {
	*semaphore.Weighted
	users int
}

// take waits for a turn until the context ends. The host is a stranger where the configuration does not name it.
func (t *turns) take(ctx context.Context, host string, task, stranger bool) (release func(), err error) {
	h := t.enter(host)
	wanted := []*semaphore.Weighted{h.Weighted}
	if task && stranger {
		wanted = append(wanted, t.strangers)
	}
	if task {
		wanted = append(wanted, t.tasks)
	}
	var got []*semaphore.Weighted
	release = func() {
		for _, s := range got {
			s.Release(1)
		}
		t.leave(host)
	}
	for _, s := range append(wanted, t.all) {
		if err := s.Acquire(ctx, 1); err != nil {
			release()
			return nil, waited(err)
		}
		got = append(got, s)
	}
	return release, nil
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
