package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listening is the socket of TCP of a port that is held. While its task refuses connections it is bound alone, so that
// the host's own clients and checks are refused as others are, whose packets reach the task itself.
type listening struct {
	at netip.AddrPort

	mu    sync.Mutex
	l     *net.TCPListener // nil while it does not listen
	quiet *os.File         // the socket meanwhile
	over  bool
}

func (s *listening) serve(r *relay) {
	for {
		s.mu.Lock()
		l, over := s.l, s.over
		s.mu.Unlock()
		switch {
		case over:
			return
		case l != nil:
			r.serveTCP(l, func() { s.hush(r, l) })
		case !r.awaitTask():
			return
		default:
			if err := s.listen(); err != nil {
				r.log.Error("a port is not held", "port", r.name, "error", err)
			}
		}
	}
}

// hush has the socket that the task has refused no longer listen. Who waits in it is reset.
func (s *listening) hush(r *relay, l *net.TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.l != l {
		return
	}
	s.l = nil
	_ = l.Close() // of a socket there is nothing to lose
	place := bound{"tcp", s.at}
	if err := settled(place, func() (err error) {
		s.quiet, err = bindQuiet(s.at)
		return err
	}); err != nil {
		r.log.Error("a port is not held", "port", r.name, "error", describe(place, err))
	}
}

func (s *listening) listen() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
	case s.quiet == nil:
		err = settled(bound{"tcp", s.at}, func() (err error) {
			s.l, err = bindTCP(s.at, nil)
			return err
		})
	default:
		s.l, err = listenOn(s.quiet)
		s.quiet = nil
	}
	return err
}

func (s *listening) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.l != nil {
		s.l.Close()
	}
	if s.quiet != nil {
		s.quiet.Close()
	}
}

// dup is a copy of the socket that another program inherits; -1 is that another has taken the port meanwhile.
func (s *listening) dup() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.l != nil:
		return inheritable(s.l)
	case s.quiet != nil:
		return inheritable(s.quiet)
	}
	return -1, nil
}

// bindQuiet binds and does not listen. On Linux a bound socket keeps the port from others only without
// SO_REUSEADDR, which it needs to be bound beside connections.
func bindQuiet(at netip.AddrPort) (*os.File, error) {
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), at.String()), nil
}

// listenOn has a bound socket listen, which may be one that does. The file is closed.
func listenOn(f *os.File) (*net.TCPListener, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
			err = unix.Listen(int(fd), -1) // as many as the host allows may wait
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// How often a task that refuses connections is asked: ever more seldom.
const (
	firstProbe = 100 * time.Millisecond
	lastProbe  = 2 * time.Second
)

// probes bounds how many tasks are asked at a time.
var probes = make(chan struct{}, 64)

// awaitTask waits until the task accepts connections; false is that the port is no longer held.
func (r *relay) awaitTask() bool {
	for wait := firstProbe; ; wait = min(wait*3/2, lastProbe) {
		select {
		case <-r.ctx.Done():
			return false
		case <-time.After(wait):
		}
		probes <- struct{}{}
		accepts := accepts(r.ctx, r.target().to)
		<-probes
		if accepts {
			return true
		}
	}
}

func accepts(ctx context.Context, at netip.AddrPort) bool {
	d := net.Dialer{Timeout: lastProbe}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was sent
	return true
}
