package mirror

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/regular"
)

// childVariable marks the process without rights, which has its channel at this number.
const (
	childVariable = "FREEJAIL_MIRROR_PROCESS"
	channelFD     = 3
)

// How often files are looked at, and for how long transfers go on for which there is a new process, or none.
// Variables for tests.
var (
	lookEvery = 15 * time.Second
	goOn      = 15 * time.Minute
	endWithin = 5 * time.Second
)

// Mirror serves what a host's configuration says, as it is at the time.
type Mirror struct {
	Config   string   // the host's file
	StateDir string   // instead of the one that the file names; may be empty
	Command  []string // of the process without rights, which calls Child
	Tell     func(format string, args ...any)

	listener *net.TCPListener
	at       string
	seen     []regular.ID
	ended    chan error // of a process that nobody has told to end
}

// running is one process that answers.
type running struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser // whose end is the process's
	done  chan struct{}
	told  atomic.Bool // that it is to end
}

// Run serves until ctx ends, or the process that answers does.
func (m *Mirror) Run(ctx context.Context) error {
	m.ended = make(chan error, 1)
	m.seen = nil
	now, err := m.start()
	if err != nil {
		return err
	}
	for {
		select {
		case err := <-m.ended:
			return err
		case <-ctx.Done():
			return errors.Join(now.end(endWithin), m.listener.Close())
		case <-time.After(lookEvery):
			if next := m.follow(); next != nil {
				old := now
				now = next
				go func() {
					if err := old.end(goOn); err != nil {
						m.Tell("%v", err)
					}
				}()
			}
		}
	}
}

// files are those that a change of is followed.
func files(c host.Mirror, config string) (out []regular.ID) {
	for _, path := range []string{config, c.CertFile, c.KeyFile, c.PasswordFile} {
		if fi, err := os.Stat(path); path != "" && err == nil {
			out = append(out, regular.IDOf(path, fi))
		}
	}
	return out
}

// follow starts another process where a file has changed; nil where none has, or what it says cannot be done.
func (m *Mirror) follow() *running {
	cfg, err := host.LoadConfig(m.Config)
	if err == nil && slices.Equal(files(cfg.Mirror, m.Config), m.seen) {
		return nil
	}
	next, err := m.start()
	if err != nil {
		m.Tell("what was read before is in force still: %v", err)
		return nil
	}
	m.Tell("the configuration or a file that it names has changed: it is in force")
	return next
}

// start starts a process that answers.
func (m *Mirror) start() (*running, error) {
	cfg, err := host.LoadConfig(m.Config)
	if err != nil {
		return nil, err
	}
	c := cfg.Mirror
	if !c.Listen.IsValid() {
		return nil, fmt.Errorf("host configuration %s: no block mirror: it says where "+
			"images are given to other hosts, and which", m.Config)
	}
	seen := files(c, m.Config)
	o, err := optionsOf(c)
	if err != nil {
		return nil, err
	}
	at := c.Listen.String()
	listener := m.listener
	if at != m.at {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return nil, fmt.Errorf("%s: mirror: %w", c.Where, err)
		}
		listener = l.(*net.TCPListener)
	}
	dir := filepath.Join(cmp.Or(m.StateDir, cfg.StateDir), "images")
	r, err := m.process(c, o, listener, &share{dir: dir, fits: c.Shares})
	if err != nil {
		if listener != m.listener {
			err = errors.Join(err, listener.Close())
		}
		return nil, err
	}
	if listener != m.listener && m.listener != nil {
		if err := m.listener.Close(); err != nil {
			m.Tell("%v", err)
		}
	}
	m.listener, m.at, m.seen = listener, at, seen
	who := "those who show the password of " + c.Username
	if c.Username == "" {
		who = "everybody who reaches it"
	}
	m.Tell("images that fit %s are given to %s, at %s, by %s (process %d)", strings.Join(c.Images, " "), who, at,
		c.User, r.cmd.Process.Pid)
	return r, nil
}

// optionsOf reads the files that the block names.
func optionsOf(c host.Mirror) (o options, err error) {
	password, pair, err := c.Secrets()
	if err != nil {
		return o, err
	}
	o = options{Username: c.Username, Password: password, Transfers: c.Transfers, Rate: c.Rate}
	if pair != nil {
		o.Chain = pair.Certificate
		o.Key, err = x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	}
	return o, err
}

// process starts the process without rights: its user's, with nothing but the listening socket and the channel.
func (m *Mirror) process(c host.Mirror, o options, l *net.TCPListener, s *share) (*running, error) {
	own, other, err := newChannel()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	cmd := exec.Command(m.Command[0], m.Command[1:]...)
	cmd.Env, cmd.Dir = []string{childVariable + "=1"}, "/"
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{other}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, own.end())
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the first, which ends it
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("the process that answers: %w", err), own.end())
	}
	r := &running{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go m.wait(r, own, s)
	if err := errors.Join(own.give(l), json.NewEncoder(stdin).Encode(o)); err != nil {
		return nil, errors.Join(err, r.end(0))
	}
	return r, nil
}

// wait answers a process's questions until it has ended.
func (m *Mirror) wait(r *running, own *channel, s *share) {
	answered := make(chan error, 1)
	go func() { answered <- own.answer(s.open) }()
	defer close(r.done)
	err := r.cmd.Wait()
	if cerr := errors.Join(own.end(), <-answered, s.close()); cerr != nil && !errors.Is(cerr, net.ErrClosed) {
		m.Tell("%v", cerr)
	}
	if r.told.Load() {
		return
	}
	if err == nil {
		err = errors.New("it has ended by itself")
	}
	select {
	case m.ended <- fmt.Errorf("the process that answers: %w", err):
	default:
	}
}

// end has a process take nobody new, and waits until its transfers are done, for so long.
func (r *running) end(within time.Duration) error {
	r.told.Store(true)
	_ = r.stdin.Close() // it may have ended
	select {
	case <-r.done:
		return nil
	case <-time.After(within):
	}
	err := r.cmd.Process.Kill()
	<-r.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// IsChild tells whether this process is the one without rights.
func IsChild() bool { return os.Getenv(childVariable) != "" }

// Child answers other hosts until the first process is gone, or has another in its place. Transfers that are under way
// then go on: they have their descriptors.
func Child(tell func(format string, args ...any)) error {
	if err := untraced(); err != nil { // before it has the password and the key
		return fmt.Errorf("others of this user could read its memory: %w", err)
	}
	var o options
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return fmt.Errorf("options: %w", err)
	}
	c, err := channelOf(os.NewFile(channelFD, "channel"))
	if err != nil {
		return err
	}
	l, err := c.take()
	if err != nil {
		return err
	}
	s := newServer(o, c.ask, tell)
	srv := s.http()
	if len(o.Chain) > 0 {
		cert, err := certificate(o)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}})
	}
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(gone)
	}()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-gone:
	}
	ctx, cancel := context.WithTimeout(context.Background(), goOn)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, srv.Close())
	}
	return nil
}

func certificate(o options) (tls.Certificate, error) {
	key, err := x509.ParsePKCS8PrivateKey(o.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return tls.Certificate{}, errors.New("the key of the certificate cannot sign")
	}
	return tls.Certificate{Certificate: o.Chain, PrivateKey: signer}, nil
}
