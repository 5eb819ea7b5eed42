package network

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flow is what one client sends to one address of the host, and the answers.
type flow struct {
	*use
	key    flowKey
	up     *net.UDPConn // to the target
	unmet  atomic.Int64 // questions without an answer
	target *target
}

type flowKey struct {
	socket *net.UDPConn
	client netip.AddrPort
	to     string // control message with the address that the client sent to
}

// flows bounds the flows of all sockets. The share of an owner is a sixteenth of all.
type flows struct {
	mu sync.Mutex
	quota
	by map[flowKey]*flow
}

func newFlows(most int) *flows {
	return &flows{quota: newQuota(most, most/16), by: map[flowKey]*flow{}}
}

// ask is the flow of a question, which does not end before it is answered; nil where there is none.
func (s *flows) ask(k flowKey) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.by[k]
	if f != nil {
		f.touch()
		f.unmet.Add(1)
	}
	return f
}

// done ends a flow unless there is a question without an answer.
func (s *flows) done(f *flow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.unmet.Load() > 0 {
		return false
	}
	s.forget(f)
	return true
}

// take ends what makes way.
func (s *flows) take(f *flow) (made *use, ok bool) {
	s.mu.Lock()
	if made, ok = s.add(f.use); ok {
		s.by[f.key] = f
	}
	s.mu.Unlock()
	if made != nil {
		made.end()
	}
	return made, ok
}

// forget is called with the lock. The flow's reader ends by it.
func (s *flows) forget(f *flow) {
	f.up.Close()
	s.remove(f.use)
	if s.by[f.key] == f {
		delete(s.by, f.key)
	}
}

func (s *flows) drop(f *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(f)
}

func (s *flows) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// end drops those of a socket.
func (s *flows) end(socket *net.UDPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, f := range s.by {
		if k.socket == socket {
			s.forget(f)
		}
	}
}

// datagrams are the buffers of those that are just being led on: as large as one can be.
var datagrams = sync.Pool{New: func() any { return new([1 << 16]byte) }}

func (r *relay) serveUDP(c *net.UDPConn) {
	for {
		err := receive(c, func(p []byte, to string, from netip.AddrPort) { r.send(c, p, to, from) })
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(afterFail)
		}
	}
}

// receive waits for a datagram, and has no buffer meanwhile.
func receive(c *net.UDPConn, take func(p []byte, to string, from netip.AddrPort)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, perr = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(perr, syscall.EAGAIN)
	})
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	buf := datagrams.Get().(*[1 << 16]byte)
	defer datagrams.Put(buf)
	var control [controlSize]byte
	n, size, _, from, err := c.ReadMsgUDPAddrPort(buf[:], control[:])
	if err != nil {
		return err
	}
	take(buf[:n], string(control[:size]), from)
	return nil
}

// send leads one datagram on. What cannot be is lost, as datagrams are.
func (r *relay) send(c *net.UDPConn, p []byte, to string, from netip.AddrPort) {
	t, key := r.target(), flowKey{c, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), to}
	if !t.from(key.client.Addr()) || from.Port() == 0 {
		return
	}
	f := t.share.flows.ask(key)
	if f == nil {
		if f = r.begin(key, t); f == nil {
			return
		}
	}
	if _, err := f.up.Write(p); errors.Is(err, syscall.ECONNREFUSED) {
		r.refused(f)
	}
}

func (r *relay) begin(key flowKey, t *target) *flow {
	to, err := t.choose()
	if err != nil {
		return nil
	}
	up, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil
	}
	f := &flow{key: key, up: up, target: t}
	server := key.socket.LocalAddr().(*net.UDPAddr).AddrPort()
	f.use = t.begin("udp", key.client, server, func() { t.share.flows.drop(f) })
	f.unmet.Store(1)
	made, ok := t.share.flows.take(f)
	if made != nil {
		r.full("flows of datagrams", made)
	}
	if !ok {
		r.full("flows of datagrams", f.use)
		up.Close()
		return nil
	}
	go r.answer(f)
	return f
}

// answer leads the answers of a flow back until it is over.
func (r *relay) answer(f *flow) {
	defer f.target.share.flows.drop(f)
	back := func(p []byte, _ string, _ netip.AddrPort) {
		f.touch()
		f.unmet.Add(-1)
		// What cannot be sent is lost, as datagrams are.
		_, _, _ = f.key.socket.WriteMsgUDPAddrPort(p, []byte(f.key.to), f.key.client)
	}
	for {
		until := time.Unix(0, f.last.Load()).Add(f.target.idle)
		if f.up.SetReadDeadline(until) != nil || !time.Now().Before(until) {
			return
		}
		err := receive(f.up, back)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			r.refused(f)
			return
		case errors.Is(err, net.ErrClosed):
			return
		case f.target.once && f.target.share.flows.done(f):
			return
		}
	}
}

// refused tells that nobody listens at a flow's target. The next datagram begins another flow.
func (r *relay) refused(f *flow) {
	if t := f.target; t.failed != nil {
		t.failed(f.up.RemoteAddr().(*net.UDPAddr).AddrPort())
	}
	f.target.share.flows.drop(f)
}
