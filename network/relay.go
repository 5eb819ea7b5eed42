package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
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
	// source is who it is from, of all that have to share; nil is the owner.
	source func(protocol string, client, server netip.AddrPort) string
	share  *share        // what it may take
	idle   time.Duration // after which a flow of datagrams is forgotten
	life   time.Duration // of a connection; 0 is any
	half   time.Duration // that nothing happens in a connection of which one direction has ended
	once   bool          // a flow ends when it has as many answers as questions
}

func (t *target) choose() (netip.AddrPort, error) {
	if t.to.IsValid() {
		return t.to, nil
	}
	return t.next()
}

// Times of what is led on. Flows of UDP live as long as states of pf(4) do (udp.multiple), and connections of
// which one direction has ended (tcp.closing).
const (
	udpIdle   = 60 * time.Second
	halfIdle  = 15 * time.Minute
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
func (r *relay) full(what string, u *use) {
	r.drops.Add(1)
	now, last := time.Now().Unix(), r.warned.Load()
	if now-last >= 60 && r.warned.CompareAndSwap(last, now) {
		r.log.Warn("too many "+what+" at once, some are dropped", "port", r.name, "of", u.owner, "from", u.source)
	}
}

// begin is the use of one that comes, whose share it takes.
func (t *target) begin(protocol string, client, server netip.AddrPort, end func()) *use {
	u := &use{owner: t.owner(client.Addr()), end: end}
	if u.source = u.owner; t.source != nil {
		u.source = t.source(protocol, client, server)
	}
	u.touch()
	return u
}

func (r *relay) serveTCP(l *net.TCPListener, refused func()) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as that too many files are open: it goes on when there are fewer
			time.Sleep(afterFail)
		default:
			r.admit(c, refused)
		}
	}
}

// admit waits for nobody: the next connection is another one's.
func (r *relay) admit(c *net.TCPConn, refused func()) {
	t, client, server := r.target(), addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !t.from(client.Addr()) {
		reset(c)
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	l := &led{use: t.begin("tcp", client, server, cancel), ctx: ctx, target: t, client: c,
		refused: refused}
	made, ok := t.share.conns.take(l.use)
	if made != nil {
		r.full("connections", made)
	}
	if !ok {
		cancel()
		r.full("connections", l.use)
		reset(c)
		return
	}
	go func() {
		defer cancel()
		defer t.share.conns.give(l.use)
		l.connect()
	}()
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// reset ends a connection so that its peer does not take it for the regular end.
func reset(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0) // of one that has ended already
		_ = c.Close()
	}
}

// led is a connection that is led on.
type led struct {
	*use
	ctx            context.Context // ends with it, its socket, or as it makes way
	target         *target
	client, server *net.TCPConn
	refused        func()      // is called if the task refuses it
	ended          atomic.Bool // is one direction
}

func (l *led) connect() {
	ctx, cancel := context.WithTimeout(l.ctx, dialTime)
	defer cancel()
	to, err := l.target.choose()
	var other net.Conn
	if err == nil {
		d := net.Dialer{}
		d.SetMultipathTCP(false)
		other, err = d.DialContext(ctx, "tcp", to.String())
	}
	if err != nil {
		reset(l.client)
		switch {
		case !to.IsValid() || l.ctx.Err() != nil:
		case l.target.failed != nil:
			l.target.failed(to)
		case errors.Is(err, syscall.ECONNREFUSED):
			l.refused()
		}
		return
	}
	l.server = other.(*net.TCPConn)
	if l.target.life > 0 && l.until(l.target.life) != nil {
		reset(l.client, l.server)
		return
	}
	l.join()
}

// until bounds the time of both ends.
func (l *led) until(d time.Duration) error {
	end := time.Now().Add(d)
	return errors.Join(l.client.SetDeadline(end), l.server.SetDeadline(end))
}

// join copies between two connections until both directions have ended.
func (l *led) join() {
	stop := context.AfterFunc(l.ctx, func() { reset(l.client, l.server) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { l.copyTo(l.client, l.server) })
	l.copyTo(l.server, l.client)
	both.Wait()
	_, _ = l.client.Close(), l.server.Close() // after errors they are closed
}

// copyTo passes on an end as an end, and what broke as broken.
func (l *led) copyTo(to, from *net.TCPConn) {
	raw, err := from.SyscallConn()
	for end := false; err == nil && !end; {
		if end, err = l.pass(to, raw); err == nil && end {
			l.ended.Store(true)
			err = to.CloseWrite()
		}
		if l.touch(); err == nil && l.ended.Load() && l.target.life == 0 {
			err = l.until(l.target.half)
		}
	}
	if err != nil {
		reset(to, from)
	}
}

// chunks are the buffers of what is just being led on. A connection in which nothing happens has none.
var chunks = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pass waits for something and passes it on.
func (l *led) pass(to *net.TCPConn, from syscall.RawConn) (end bool, err error) {
	var buf *[32 << 10]byte
	n := 0
	rerr := from.Read(func(fd uintptr) bool {
		buf = chunks.Get().(*[32 << 10]byte)
		for n, err = unix.Read(int(fd), buf[:]); errors.Is(err, syscall.EINTR); {
			n, err = unix.Read(int(fd), buf[:])
		}
		if errors.Is(err, syscall.EAGAIN) {
			chunks.Put(buf)
			return false
		}
		return true
	})
	if rerr != nil { // then there is no buffer
		return false, rerr
	}
	defer chunks.Put(buf)
	if err != nil || n == 0 {
		return err == nil, err
	}
	l.touch()
	_, err = to.Write(buf[:n])
	return false, err
}

// share is what relays of one kind may have at a time.
type share struct {
	conns *conns
	flows *flows
}

// conns bounds the connections of all sockets.
type conns struct {
	mu sync.Mutex
	quota
}

func newConns(most, each int) *conns { return &conns{quota: newQuota(most, each)} }

// take ends what makes way.
func (c *conns) take(u *use) (made *use, ok bool) {
	c.mu.Lock()
	made, ok = c.add(u)
	c.mu.Unlock()
	if made != nil {
		made.end()
	}
	return made, ok
}

func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

func (c *conns) give(u *use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(u)
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
