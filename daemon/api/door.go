package api

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// maxStrangers is how many connections of those who are refused may be open at
// once, each until it has its answer: the descriptors are for root of the host.
const maxStrangers = 16

// warnEvery is the shortest time between two warnings about refused connections.
const warnEvery = 10 * time.Second

// door is a listener that examines who connects at once. Of those who are
// refused it lets in a few, to tell them why, and closes on the others.
type door struct {
	*net.UnixListener
	log    hclog.Logger
	group  *int          // whose members are admitted beside root; nil for none
	closed chan struct{} // by Close

	mu        sync.Mutex
	strangers int
	untold    int  // refused since the last warning
	quiet     bool // there was a warning just now
	// Of one that is shut: closed when it is open again, and when nobody comes in any more.
	opened, empty chan struct{}
}

// knownConn is a connection with who has its other end.
type knownConn struct {
	net.Conn
	peer   peer
	closed func()
}

func (c *knownConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// SyscallConn is the socket itself, of which nothing is to be closed.
func (c *knownConn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, syscall.EINVAL
	}
	return s.SyscallConn()
}

// Accept returns a *knownConn.
func (l *door) Accept() (net.Conn, error) {
	for {
		c, err := l.UnixListener.Accept()
		if err != nil && l.rest() {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := peerAt(c, l.group)
		if p.err == nil {
			return &knownConn{c, p, func() {}}, nil
		}
		l.warn(p)
		if l.enter() {
			return l.stranger(c, p), nil
		}
		if err := c.Close(); err != nil {
			l.log.Debug("a refused connection", "error", err)
		}
	}
}

// shut has those who connect wait for who listens next. When it returns, each connection that Accept has returned is
// known to its server, which calls that by one goroutine, or is over.
func (l *door) shut(over <-chan struct{}) (open func(), err error) {
	opened, empty := make(chan struct{}), make(chan struct{})
	l.mu.Lock()
	l.opened, l.empty = opened, empty
	l.mu.Unlock()
	if err = l.SetDeadline(time.Unix(1, 0)); err == nil {
		select {
		case <-empty:
		case <-over:
		}
	}
	return func() {
		_ = l.SetDeadline(time.Time{}) // of a closed one there is none
		l.mu.Lock()
		l.opened, l.empty = nil, nil
		l.mu.Unlock()
		close(opened)
	}, err
}

// rest returns when the door is open again, and is false where it was not shut or is closed.
func (l *door) rest() bool {
	l.mu.Lock()
	opened, empty := l.opened, l.empty
	l.empty = nil
	l.mu.Unlock()
	if empty == nil {
		return false
	}
	close(empty)
	select {
	case <-opened:
		return true
	case <-l.closed:
		return false
	}
}

// Close is called once.
func (l *door) Close() error {
	err := l.UnixListener.Close()
	close(l.closed)
	return err
}

// stranger is a connection that ends soon, whatever is done on it.
func (l *door) stranger(c net.Conn, p peer) *knownConn {
	end := time.AfterFunc(headerTime, func() { _ = c.Close() }) // its server has the error
	return &knownConn{c, p, sync.OnceFunc(func() { end.Stop(); l.leave() })}
}

func (l *door) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.strangers == maxStrangers {
		return false
	}
	l.strangers++
	return true
}

func (l *door) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strangers--
}

// warn tells of a refused connection at once, and of those that follow soon by
// their number.
func (l *door) warn(p peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet {
		l.untold++
		return
	}
	l.log.Warn("a connection is refused", "uid", p.uid, "pid", p.pid, "reason", p.err)
	l.quiet = true
	time.AfterFunc(warnEvery, l.sum)
}

func (l *door) sum() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.untold == 0 {
		l.quiet = false
		return
	}
	l.log.Warn("more connections were refused", "number", l.untold)
	l.untold = 0
	time.AfterFunc(warnEvery, l.sum)
}
