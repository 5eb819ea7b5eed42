package storage

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pool stands for the kernel's: it knows what is there and what is mounted, and fails now and then if it is to.
type pool struct {
	t       *testing.T
	mu      sync.Mutex
	there   map[string]spareKind
	mounted map[string]bool
	ever    map[string]bool // mounted
	spares  int             // that were used
	fails   atomic.Bool
}

func newPool(t *testing.T) (*pool, *clones) {
	p := &pool{t: t, there: map[string]spareKind{}, mounted: map[string]bool{}, ever: map[string]bool{}}
	return p, newClones("parent", p.clone, p.destroy, func(string, error) {})
}

func (p *pool) wait() error {
	time.Sleep(time.Duration(rand.Intn(50)) * time.Millisecond)
	if p.fails.Load() && rand.Intn(20) == 0 {
		return errors.New("the pool fails")
	}
	return nil
}

func (p *pool) clone(name string, kind spareKind) error {
	if err := p.wait(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, has := p.there[name]; has {
		p.t.Errorf("%s is made again", name)
	}
	p.there[name] = kind
	return nil
}

func (p *pool) destroy(name string) error {
	p.mu.Lock()
	if _, has := p.there[name]; !has || p.mounted[name] {
		p.t.Errorf("%s is destroyed: it is there %v, mounted %v", name, has, p.mounted[name])
	}
	p.mu.Unlock()
	if err := p.wait(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.there, name)
	return nil
}

// use is a task that has a spare of a kind if there is one, or else a clone that is made for it.
func (p *pool) use(c *clones, kind spareKind) (spare bool) {
	name := c.take(kind)
	if spare = name != ""; !spare {
		name = c.name(kind.chain)
		if p.clone(name, kind) != nil {
			c.forget(name)
			return false
		}
	}
	p.mu.Lock()
	if got, has := p.there[name]; !has || got != kind || p.ever[name] {
		p.t.Errorf("a task that wants %v has %s, %v; it is there %v, and another's before %v", kind, name, got, has,
			p.ever[name])
	}
	p.mounted[name], p.ever[name] = true, true
	if spare {
		p.spares++
	}
	p.mu.Unlock()
	time.Sleep(time.Duration(rand.Intn(100)) * time.Millisecond)
	p.mu.Lock()
	delete(p.mounted, name)
	p.mu.Unlock()
	c.drop(name, "")
	return spare
}

func (p *pool) count() map[spareKind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := map[spareKind]int{}
	for _, kind := range p.there {
		n[kind]++
	}
	return n
}

// A spare is one task's, nothing was ever written to it, and it is of what the task wants, whatever else goes on: ends,
// the removal of chains, a pool that fails. In the end nothing is left.
func TestClonesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPool(t)
		p.fails.Store(true)
		var starts, removals sync.WaitGroup
		for range 20 {
			starts.Go(func() {
				for range 100 {
					p.use(c, spareKind{fmt.Sprint(rand.Intn(3)), int64(rand.Intn(3))})
					time.Sleep(time.Duration(rand.Intn(300)) * time.Millisecond)
				}
			})
		}
		over := make(chan struct{})
		removals.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Second):
				}
				if err := c.dropAll(t.Context(), fmt.Sprint(rand.Intn(3))); err != nil {
					t.Error(err)
				}
			}
		})
		starts.Wait()
		close(over)
		removals.Wait()
		if p.spares < 100 || p.spares == len(p.ever) {
			t.Errorf("of %d starts %d had a spare", len(p.ever), p.spares)
		}
		p.fails.Store(false)
		if err := c.dropAll(t.Context(), ""); err != nil {
			t.Error(err)
		}
		if left := p.count(); len(left) > 0 || len(c.chains) > 0 {
			t.Errorf("left are %v, known %v", left, c.chains)
		}
		time.Sleep(2 * spareIdle) // for its timer
	})
}

// What cannot be destroyed is tried again, whether anything else is to be done or not.
func TestClonesThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		var tries atomic.Int64
		c := newClones("parent", nil, func(string) error {
			if tries.Add(1); !gone.Load() {
				return errors.New("somebody holds it")
			}
			return nil
		}, func(string, error) {})
		c.drop("parent/held", "c")
		time.Sleep(5 * spareRetry)
		if n := tries.Load(); n < 3 || n > 6 {
			t.Errorf("in five minutes it was tried %d times", n)
		}
		gone.Store(true)
		time.Sleep(2 * spareRetry)
		n := tries.Load()
		time.Sleep(time.Hour)
		c.mu.Lock()
		defer c.mu.Unlock()
		if tries.Load() != n || len(c.failed)+len(c.old)+len(c.chains) > 0 {
			t.Errorf("known are %q %q %v, tried %d and %d times", c.failed, c.old, c.chains, n, tries.Load())
		}
	})
}

// As many are kept as were asked for lately, a few of a kind and of all, and the kinds that were asked for last have
// them.
func TestClonesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPool(t)
		want := func(when string, want map[spareKind]int) {
			t.Helper()
			time.Sleep(spareQuiet + 2*spareRest)
			synctest.Wait()
			if got := p.count(); !slices.Equal(kindsOf(got), kindsOf(want)) {
				t.Errorf("%s there are %v, want %v", when, got, want)
			}
		}
		a := spareKind{"a", 0}
		if p.use(c, a) {
			t.Error("the first start had a spare")
		}
		want("after one start", map[spareKind]int{a: 1})
		if !p.use(c, a) || p.use(c, spareKind{"a", 5}) {
			t.Error("the second start had no spare, or one with another limit")
		}
		want("after two", map[spareKind]int{a: 2, {"a", 5}: 1})
		for range 10 {
			p.use(c, a)
		}
		want("after many", map[spareKind]int{a: maxOfKind, {"a", 5}: 1})
		full := map[spareKind]int{}
		for i := range maxSpares / maxOfKind {
			kind := spareKind{"b", int64(i)}
			for range 10 {
				p.use(c, kind)
				time.Sleep(time.Second)
			}
			full[kind] = maxOfKind
		}
		want("after many of others", full)
		time.Sleep(spareIdle - time.Minute)
		p.use(c, a)
		full[a], full[spareKind{"b", 0}] = maxOfKind, 0
		delete(full, spareKind{"b", 0})
		want("with one that is asked for again", full)
		time.Sleep(2 * time.Minute)
		p.use(c, a)
		want("when nobody asks for the others", map[spareKind]int{a: maxOfKind})
		time.Sleep(2 * spareIdle)
		want("when nobody asks", nil)
		if err := c.dropAll(t.Context(), ""); err != nil {
			t.Error(err)
		}
	})
}

func kindsOf(n map[spareKind]int) (out []string) {
	for kind, n := range n {
		out = append(out, fmt.Sprint(kind, n))
	}
	slices.Sort(out)
	return out
}
