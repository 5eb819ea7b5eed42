package storage

import (
	"context"
	"crypto/rand"
	"path"
	"slices"
	"sync"
	"time"
)

// To clone a snapshot, and to destroy a clone, waits until the pool has written a transaction group (dsl_sync_task of
// module/zfs/dsl_synctask.c of OpenZFS). So clones for the next tasks of an image are made behind a start, and what was
// a task's is destroyed behind its end. A clone's name tells nothing, as to rename it would wait too: it is the task's
// on whose root it is mounted. What is not mounted is nobody's, and is destroyed when the driver is opened.

const (
	// maxSpares are kept on a host, of each kind as many as were asked for lately, and maxOfKind at most.
	maxSpares = 16
	maxOfKind = 4
	// spareIdle is how long spares are kept that nobody asks for.
	spareIdle = 10 * time.Minute
	// spareRetry is after which what could not be destroyed is tried again.
	spareRetry = time.Minute
	// spareRest lets the start that took the last spare go on first. Else what there is to do waits until nothing was
	// asked for a while, or is much: it takes a transaction group for all, for which ends would wait.
	spareRest  = 250 * time.Millisecond
	spareQuiet = time.Second
	// spareTurn are destroyed at a time.
	spareTurn = 32
)

// spareKind is what a task's root is a clone of, and its quota in bytes or 0.
type spareKind struct {
	chain string
	quota int64
}

// stock are the spares of a kind, which nothing was ever mounted of.
type stock struct {
	ready []string // datasets
	want  int
	used  time.Time
}

// clones keeps the spares, and what is to be destroyed.
type clones struct {
	parent  string // the dataset of all
	clone   func(name string, kind spareKind) error
	destroy func(name string) error
	note    func(name string, err error)
	none    bool // no spares are to be made

	mu     sync.Mutex
	asked  time.Time // when something last was
	stocks map[spareKind]*stock
	chains map[string]string // the chain of each dataset; not of all that an earlier daemon made
	old    []string          // to be destroyed
	failed []string          // to be destroyed again, when somebody asks for it or after spareRetry
	tried  time.Time         // when the last of these was
	busy   []string          // being made or destroyed
	turned chan struct{}     // closed when that is over
	worked chan struct{}     // closed when there is no more to do; nil then
	idle   *time.Timer
}

func newClones(parent string, clone func(string, spareKind) error, destroy func(string) error,
	note func(string, error)) *clones {
	return &clones{parent: parent, clone: clone, destroy: destroy, note: note, stocks: map[spareKind]*stock{},
		chains: map[string]string{}}
}

// take returns a spare that is nobody else's, or an empty name, and has another be made.
func (c *clones) take(kind spareKind) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.none {
		return ""
	}
	s := c.stocks[kind]
	if s == nil {
		s = &stock{}
		c.stocks[kind] = s
	}
	c.asked = time.Now()
	s.used, s.want = c.asked, min(s.want+1, maxOfKind)
	c.begin()
	if len(s.ready) == 0 {
		return ""
	}
	name := s.ready[0]
	s.ready = s.ready[1:]
	return name
}

// name is that of a new clone.
func (c *clones) name(chain string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newName(chain)
}

// newName is name for who holds the lock.
func (c *clones) newName(chain string) string {
	name := path.Join(c.parent, rand.Text())
	c.chains[name] = chain
	return name
}

// forget is for a clone that was not made.
func (c *clones) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.chains, name)
}

// drop has a dataset destroyed that nothing is mounted of. An empty chain is one that is not known.
func (c *clones) drop(name, chain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if chain != "" {
		c.chains[name] = chain
	}
	c.asked = time.Now()
	c.old = append(c.old, name)
	c.begin()
}

// dropAll destroys what is nobody's of a chain, or of all if that is empty.
func (c *clones) dropAll(ctx context.Context, chain string) error {
	of := func(name string) bool { return chain == "" || c.chains[name] == chain || c.chains[name] == "" }
	for {
		c.mu.Lock()
		for kind, s := range c.stocks {
			if chain == "" || kind.chain == chain {
				c.old = append(c.old, s.ready...)
				delete(c.stocks, kind)
			}
		}
		c.old, c.failed = append(c.old, c.failed...), nil
		var mine, others []string
		for _, name := range c.old {
			if of(name) {
				mine = append(mine, name)
			} else {
				others = append(others, name)
			}
		}
		c.old = others
		var turned chan struct{}
		if slices.ContainsFunc(c.busy, of) {
			turned = c.turned
		}
		c.mu.Unlock()
		for some := range slices.Chunk(mine, spareTurn) {
			var wait sync.WaitGroup
			for _, name := range some {
				wait.Go(func() { c.remove(name) })
			}
			wait.Wait()
		}
		if turned == nil {
			return ctx.Err()
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin has the work done, unless it is. The caller holds the lock.
func (c *clones) begin() {
	if c.worked != nil {
		return
	}
	c.worked = make(chan struct{})
	if c.idle != nil {
		c.idle.Stop()
	}
	go func() {
		for more := true; more; more = c.turn() {
			time.Sleep(spareRest)
		}
	}()
}

// later looks for work when spares may be idle, or something is to be tried again. The caller holds the lock.
func (c *clones) later() {
	if c.idle != nil {
		c.idle.Stop()
	}
	wait := spareIdle
	if len(c.failed) > 0 {
		wait = spareRetry
	}
	c.idle = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.begin()
	})
}

// due tells whether to work now. The caller holds the lock.
func (c *clones) due(now time.Time) bool {
	if now.Sub(c.asked) >= spareQuiet || len(c.old) >= spareTurn {
		return true
	}
	for _, s := range c.stocks {
		if len(s.ready) == 0 && s.want > 0 {
			return true
		}
	}
	return false
}

// turn does what there is to be done, in one transaction group where the pool has no other work.
func (c *clones) turn() (more bool) {
	c.mu.Lock()
	if !c.due(time.Now()) {
		c.mu.Unlock()
		return true
	}
	todo := c.plan(time.Now())
	if len(todo) == 0 {
		close(c.worked)
		c.worked = nil
		if len(c.stocks)+len(c.failed) > 0 {
			c.later()
		}
		c.mu.Unlock()
		return false
	}
	turned := make(chan struct{})
	c.turned = turned
	c.mu.Unlock()
	var wait sync.WaitGroup
	for _, do := range todo {
		wait.Go(do)
	}
	wait.Wait()
	c.mu.Lock()
	c.busy, c.turned = nil, nil
	c.mu.Unlock()
	close(turned)
	return true
}

// plan is the work of a turn. The kinds that were asked for last have the first places. The caller holds the lock.
func (c *clones) plan(now time.Time) (todo []func()) {
	var kinds []spareKind
	for kind, s := range c.stocks {
		if now.Sub(s.used) >= spareIdle {
			c.old = append(c.old, s.ready...)
			delete(c.stocks, kind)
			continue
		}
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b spareKind) int { return c.stocks[b].used.Compare(c.stocks[a].used) })
	if now.Sub(c.tried) >= spareRetry {
		c.old, c.failed = append(c.old, c.failed...), nil
	}
	left := maxSpares
	for _, kind := range kinds {
		s := c.stocks[kind]
		n := min(s.want, left)
		left -= n
		if len(s.ready) > n {
			c.old = append(c.old, s.ready[n:]...)
			s.ready = s.ready[:n]
		}
		for range n - len(s.ready) {
			name := c.newName(kind.chain)
			c.busy = append(c.busy, name)
			todo = append(todo, func() { c.add(kind, s, name) })
		}
	}
	n := min(len(c.old), spareTurn)
	for _, name := range c.old[:n] {
		c.busy = append(c.busy, name)
		todo = append(todo, func() { c.remove(name) })
	}
	c.old = slices.Clone(c.old[n:])
	return todo
}

// add makes a spare. Why it cannot be made the next start will tell.
func (c *clones) add(kind spareKind, s *stock, name string) {
	err := c.clone(name, kind)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		s.want = 0
		delete(c.chains, name)
	case c.stocks[kind] != s: // dropped meanwhile
		c.old = append(c.old, name)
	default:
		s.ready = append(s.ready, name)
	}
}

func (c *clones) remove(name string) {
	err := c.destroy(name)
	c.note(name, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed, c.tried = append(c.failed, name), time.Now()
		if c.worked == nil {
			c.later()
		}
		return
	}
	delete(c.chains, name)
}
