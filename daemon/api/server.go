package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/inherit"
)

// listenFD names the environment variable that carries the listening socket
// over an upgrade, so that no client is turned away.
const listenFD = "FREEJAIL_LISTEN_FD"

// How long a connection may take for a request's header, and be without a
// request: longer than clients keep theirs.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
)

// Server answers on a socket.
type Server struct {
	http  *http.Server
	door  *door
	debts debts
	ended chan error
	over  chan struct{} // closed when nobody comes in any more
}

// Serve begins to answer on the socket at a path, or on the one that the daemon
// before has left to this one. It is root's, and that of a group unless that is nil.
func Serve(socket string, group *int, b Backend) (*Server, error) {
	l, err := inherited()
	if l == nil && err == nil {
		l, err = listen(socket)
	}
	if err != nil {
		return nil, err
	}
	if err := giveTo(l.Addr().String(), group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{door: &door{UnixListener: l, log: b.Log, group: group, closed: make(chan struct{})},
		ended: make(chan error, 1), over: make(chan struct{})}
	known := func(ctx context.Context, c net.Conn) context.Context { return s.debts.with(withPeer(ctx, c), c) }
	s.http = &http.Server{Handler: hostOnly(Handler(b), b.Log), ConnContext: known, ConnState: s.debts.changed,
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime}
	go func() {
		s.ended <- s.http.Serve(s.door)
		close(s.over)
	}()
	return s, nil
}

// Ended gives the error with which the server cannot answer any more.
func (s *Server) Ended() <-chan error { return s.ended }

// Close ends all connections and removes the socket.
func (s *Server) Close() error { return s.http.Close() }

// Keep runs what executes another program in this process's place, with the
// environment that leaves the socket to it. Those who connect from now on wait for that
// program. Those who have asked before are answered, but for who is so slow that it takes
// leaveTime, and for requests that wait for something themselves.
func (s *Server) Keep(env []string, replace func(env []string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	began := time.Now()
	open, err := s.door.shut(s.over)
	if err != nil {
		return fmt.Errorf("listening socket: %w", err)
	}
	defer open()
	s.http.SetKeepAlivesEnabled(false)
	defer s.http.SetKeepAlivesEnabled(true)
	if err := s.debts.settle(ctx, began.Add(-leaveTime)); err != nil {
		s.door.log.Warn("an answer may be cut off: its client is slow, or it takes its time", "after", leaveTime)
	}
	return inherit.Pass(env, listenFD, s.door.UnixListener, replace)
}

// inherited is the socket of the daemon before; nil where there is none.
func inherited() (*net.UnixListener, error) {
	l, err := inherit.Listener(listenFD)
	if l == nil || err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: not a Unix socket", listenFD), l.Close())
	}
	u.SetUnlinkOnClose(true) // as one that was not inherited
	return u, nil
}

// giveTo has a socket be used by root, and by a group. At no moment is it open to others:
// it has no group's mode while its group changes.
func giveTo(socket string, group *int) error {
	if err := os.Chmod(socket, 0o600); err != nil || group == nil {
		return err
	}
	if err := os.Lchown(socket, -1, *group); err != nil {
		return err
	}
	return os.Chmod(socket, 0o660)
}

func listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	// The state directory's lock is ours: whatever lies here is stale, or
	// belongs to a daemon of another state directory, which is not ours to take.
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("another freejail daemon listens on %s: choose another socket", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
}
