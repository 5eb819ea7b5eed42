// Package places bounds what the users of a host have under way at once, so that none keeps the others out.
package places

import (
	"fmt"
	"sync"
)

// Places are taken by who does something. A user has half of them at most, and the last ones are kept for root.
type Places struct {
	Most int // of all; 2 or more

	mu    sync.Mutex
	root  int
	users map[int]int // by uid
}

// kept is one place in so many that is for root, and one at least.
const kept = 8

// Take takes a place until release is called, or tells why there is none.
func (p *Places) Take(uid int, root bool) (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	users := 0
	for _, n := range p.users {
		users += n
	}
	switch {
	case p.root+users >= p.Most:
		return nil, fmt.Errorf("%d are under way, which is the most at a time", p.Most)
	case root:
		p.root++
		return p.release(func() { p.root-- }), nil
	case p.users[uid] >= p.Most/2:
		return nil, fmt.Errorf("%d are under way of the same user, which is the most at a time", p.Most/2)
	case users >= p.Most-max(p.Most/kept, 1):
		return nil, fmt.Errorf("%d are under way, and the rest is kept for root", users)
	case p.users == nil:
		p.users = map[int]int{}
	}
	p.users[uid]++
	return p.release(func() {
		if p.users[uid]--; p.users[uid] == 0 {
			delete(p.users, uid)
		}
	}), nil
}

func (p *Places) release(f func()) func() {
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		f()
	})
}
