package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// target is where a port leads to, and for whom.
type target struct {
	to netip.AddrPort
	// next is asked for it, where to is not valid: one that refuses is told by failed.
	next   func() (netip.AddrPort, error)
	failed func(netip.AddrPort)
	// from tells whether a source is led on. All else is dropped.
	from func(netip.Addr) bool
	// owner is whose share of connections and flows one from a source takes.
	owner func(netip.Addr) string
	share *share        // what it may take
	idle  time.Duration // after which a flow of datagrams is forgotten
	life  time.Duration // of a connection; 0 is any
	once  bool          // a flow ends when it has as many answers as questions
}

func (t *target) choose() (netip.AddrPort, error) {
	if t.to.IsValid() {
		return t.to, nil
	}
	return t.next()
}

// Times of what is led on. Flows of UDP live as long as states of pf(4) do (udp.multiple).
const (
	udpIdle   = 60 * time.Second
	dialTime  = 10 * time.Second
	afterFail = 10 * time.Millisecond // before a socket that has failed is asked again
)

// relay leads what comes to a socket of the host on to its target.
type relay struct {
	ctx    context.Context // ends with the socket
	aim    atomic.Pointer[target]
	drops  *atomic.Uint64
	log    hclog.Logger
	name   string
	warned atomic.Int64
}

func (r *relay) lead(t target)   { r.aim.Store(&t) }
func (r *relay) target() *target { return r.aim.Load() }

// full tells, at most once a minute, that something was dropped.
func (r *relay) full(what, owner string) {
	r.drops.Add(1)
	now, last := time.Now().Unix(), r.warned.Load()
	if now-last >= 60 && r.warned.CompareAndSwap(last, now) {
		r.log.Warn("too many "+what+" at once, new ones are dropped", "port", r.name, "of", owner)
	}
}

func (r *relay) serveTCP(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as that too many files are open: it goes on when there are fewer
			time.Sleep(afterFail)
		default:
			r.admit(c)
		}
	}
}

// admit waits for nobody: the next connection is another one's.
func (r *relay) admit(c *net.TCPConn) {
	t, source := r.target(), c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if !t.from(source) {
		reset(c)
		return
	}
	owner := t.owner(source)
	if !t.share.conns.take(owner) {
		r.full("connections", owner)
		reset(c)
		return
	}
	go func() {
		defer t.share.conns.give(owner)
		r.connect(c, t)
	}()
}

// reset ends a connection so that its peer does not take it for the regular end.
func reset(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0) // of one that has ended already
		_ = c.Close()
	}
}

func (r *relay) connect(c *net.TCPConn, t *target) {
	ctx, cancel := context.WithTimeout(r.ctx, dialTime)
	defer cancel()
	to, err := t.choose()
	var other net.Conn
	if err == nil {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		other, err = d.DialContext(ctx, "tcp", to.String())
	}
	if err != nil {
		if t.failed != nil && to.IsValid() {
			t.failed(to)
		}
		reset(c)
		return
	}
	if t.life > 0 {
		end := time.Now().Add(t.life)
		err = errors.Join(c.SetDeadline(end), other.SetDeadline(end))
	}
	if err != nil {
		reset(c, other.(*net.TCPConn))
		return
	}
	r.join(c, other.(*net.TCPConn))
}

// join copies between two connections until both directions have ended.
func (r *relay) join(a, b *net.TCPConn) {
	stop := context.AfterFunc(r.ctx, func() { reset(a, b) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { copyTo(a, b) })
	copyTo(b, a)
	both.Wait()
	_, _ = a.Close(), b.Close() // after errors they are closed
}

// copyTo passes on an end as an end, and what broke as broken.
func copyTo(to, from *net.TCPConn) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		reset(to, from)
	}
}

// share is what relays of one kind may have at a time.
type share struct {
	conns *quota
	flows *flows
}

// quota bounds how many there are of something: in all, and of each owner.
type quota struct {
	mu         sync.Mutex
	most, each int
	total      int
	by         map[string]int
}

func newQuota(most, each int) *quota {
	return &quota{most: most, each: max(1, each), by: map[string]int{}}
}

func (q *quota) take(owner string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.total >= q.most || q.by[owner] >= q.each {
		return false
	}
	q.total++
	q.by[owner]++
	return true
}

func (q *quota) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

func (q *quota) give(owner string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.by[owner]--; q.by[owner] == 0 {
		delete(q.by, owner)
	}
}

// hostAddresses are those of the host, read again when they may have changed.
type hostAddresses struct {
	mu  sync.Mutex
	at  time.Time
	all []netip.Addr
}

// A known address is believed for a second, and that one is not known for a tenth of that: what comes from
// elsewhere does not have the host's interfaces listed for each packet.
const (
	knownFor   = time.Second
	unknownFor = knownFor / 10
)

func (h *hostAddresses) has(a netip.Addr) bool {
	if a.IsLoopback() { // the kernel takes no such packet from elsewhere
		return true
	}
	a = a.WithZone("")
	h.mu.Lock()
	defer h.mu.Unlock()
	found, age := slices.Contains(h.all, a), time.Since(h.at)
	if age < unknownFor || found && age < knownFor {
		return found
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	h.at, h.all = time.Now(), h.all[:0]
	for _, one := range list {
		if n, ok := one.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				h.all = append(h.all, addr.Unmap())
			}
		}
	}
	return slices.Contains(h.all, a)
}
