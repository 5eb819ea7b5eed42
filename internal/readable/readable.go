// Package readable tells of many descriptors when there is something to read. They have one goroutine together,
// where each of them would have one of its own with a [os.File].
package readable

import (
	"fmt"
	"sync"
)

// poller waits for all descriptors.
type poller struct {
	queue int // the kernel's

	mu   sync.Mutex
	next map[int]func() // by descriptor
}

var shared = sync.OnceValues(func() (*poller, error) {
	queue, err := open()
	if err != nil {
		return nil, fmt.Errorf("wait for many descriptors: %w", err)
	}
	p := &poller{queue: queue, next: map[int]func(){}}
	go p.run()
	return p, nil
})

// Next has f called once, in a goroutine of its own, when fd has something to read or nobody can write any more; now
// and then that was already read. fd is to stay open until f is called, or Cancel.
func Next(fd int, f func()) error {
	p, err := shared()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := arm(p.queue, fd); err != nil {
		return fmt.Errorf("wait for descriptor %d: %w", fd, err)
	}
	p.next[fd] = f
	return nil
}

// Cancel takes the last call of Next back. It is false where there is none, or its function was called. The
// descriptor may be closed after it.
func Cancel(fd int) bool {
	p, err := shared()
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, waits := p.next[fd]
	delete(p.next, fd)
	disarm(p.queue, fd)
	return waits
}

func (p *poller) run() {
	for {
		if err := wait(p.queue, p.call); err != nil {
			panic(fmt.Sprintf("wait for many descriptors: %v", err)) // the queue is ours alone
		}
	}
}

func (p *poller) call(fd int) {
	p.mu.Lock()
	f := p.next[fd]
	delete(p.next, fd)
	p.mu.Unlock()
	if f != nil { // else it was cancelled
		go f()
	}
}
