package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// session is a client at a task that runs: it shows what the task writes, passes on what
// is typed, and ends as the task does.
type session struct {
	a     *commands
	c     *client.Client
	id    string
	input bool   // standard input is the task's
	tty   bool   // which has a terminal
	keys  []byte // that leave the task
	tail  int    // as for client.Logs
	rm    bool   // the task is to be removed

	raw      *rawTerminal
	typed    chan []byte // of standard input; closed at its end
	over     bool        // the end was sent
	passed   bool        // and is known to have come to the task
	detached chan struct{}
	follows  chan struct{} // closed when the terminal's output is read
	signals  chan os.Signal
}

func (a *commands) newSession(t *client.Task, input bool, keys []byte) *session {
	return &session{a: a, c: a.client(), id: t.Spec.ID, input: input && t.Spec.Interactive, tty: t.Spec.TTY, keys: keys,
		tail: -1, typed: make(chan []byte), detached: make(chan struct{}), follows: make(chan struct{}),
		signals: make(chan os.Signal, 8)}
}

// sessionEnd is how a session ended.
type sessionEnd struct {
	exit     *client.Exit
	detached bool
}

// run returns when the task has ended, or is detached from. What the task writes after
// an interrupt is shown too.
func (s *session) run(interrupted context.Context) (end sessionEnd, err error) {
	if s.input && s.tty && term.IsTerminal(int(os.Stdin.Fd())) {
		if s.raw, err = makeRaw(int(os.Stdin.Fd())); err != nil {
			return end, err
		}
		defer s.raw.Close()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(interrupted))
	defer cancel()
	lost := make(chan error, 1)
	leave := s.attach(ctx, lost)
	defer leave(false)
	defer s.forward(ctx)()
	followed := s.follow(ctx)
	waited := make(chan error, 1)
	go func() {
		var werr error
		end.exit, werr = waitFor(interrupted, s.c, s.id, s.sayWaiting)
		waited <- werr
	}()
	select {
	case err = <-waited:
	case <-s.detached:
		return sessionEnd{detached: true}, nil
	case err = <-lost:
		_, serr := s.stop(syscall.SIGTERM)
		return sessionEnd{}, errors.Join(err, serr)
	}
	if sig, is := app.SignalOf(interrupted); is { // the task ends with us
		end.exit, err = s.stop(sig)
	}
	if err != nil {
		return end, fmt.Errorf("task %s may run on: %w", s.id, err)
	}
	return end, s.finish(ctx, followed, leave)
}

// finish shows what is left of the output, and removes the task if it is to be.
func (s *session) finish(ctx context.Context, followed <-chan error, leave func(keep bool)) error {
	whole := s.shown(followed)
	switch {
	case s.rm && whole:
		return s.c.Destroy(ctx, s.id, false)
	case s.rm:
		s.raw.say("so the task is not removed: freejail rm %s", s.id)
		leave(true)
	}
	return nil
}

// stop ends the task with us. A daemon that comes meanwhile keeps the time of its end.
func (s *session) stop(sig syscall.Signal) (exit *client.Exit, err error) {
	ctx := context.Background()
	r := client.StopRequest{Signal: unix.SignalName(sig), Timeout: client.Duration(s.a.stopTimeout(ctx, s.id))}
	err = persist(ctx, calling, func() (err error) {
		exit, err = s.c.Stop(ctx, s.id, r)
		return err
	}, s.sayWaiting)
	return exit, err
}

func (s *session) sayWaiting() { s.raw.say("%s", waitingText) }

// streams are those that the task writes to, and where they are shown.
func (s *session) streams() map[string]io.Writer {
	if s.tty {
		return map[string]io.Writer{"stdout": s.a.stream}
	}
	return map[string]io.Writer{"stdout": s.a.stream, "stderr": os.Stderr}
}

// follow shows what the task writes.
func (s *session) follow(ctx context.Context) <-chan error {
	streams := s.streams()
	followed, each := make(chan error, 1), make(chan error, len(streams))
	for stream, w := range streams {
		reading := client.LogReading{Task: s.id, Stream: stream, Tail: s.tail, To: w}
		if stream == "stdout" {
			reading.Begun = func() { close(s.follows) }
		}
		go func() {
			each <- persist(ctx, attending, func() error { return s.c.FollowLog(ctx, &reading) }, func() {})
		}()
	}
	go func() {
		var errs []error
		for range streams {
			errs = append(errs, <-each)
		}
		followed <- errors.Join(errs...)
	}()
	return followed
}

// shown waits for the ends of the streams, and tells whether all was shown.
func (s *session) shown(followed <-chan error) bool {
	err := <-followed
	switch {
	case err == nil:
		return true
	case errors.Is(err, client.ErrPlaceLost):
		s.raw.say("%v: freejail logs %s", client.ErrPlaceLost, s.id)
	default:
		s.raw.say("log: %v", err)
	}
	return false
}

// forwarded are the signals that a task without a terminal of its own gets as the client
// does. SIGINT and SIGTERM also end the client.
var forwarded = []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

func (s *session) forward(ctx context.Context) (stop func()) {
	if s.raw != nil {
		return func() {}
	}
	for _, sig := range forwarded {
		if !signal.Ignored(sig) {
			signal.Notify(s.signals, sig)
		}
	}
	go func() {
		for {
			select {
			case sig := <-s.signals:
				if err := s.c.Signal(ctx, s.id, unix.SignalName(sig.(syscall.Signal))); err != nil {
					s.raw.say("signal: %v", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { signal.Stop(s.signals) }
}

// attach keeps the client attached until leave, over the ends of daemons. Lost gets an
// error where input is.
func (s *session) attach(ctx context.Context, lost chan<- error) (leave func(keep bool)) {
	ctx, cancel := context.WithCancel(ctx)
	if s.input {
		go s.read()
	}
	last := make(chan *client.Attachment, 1)
	go func() {
		var at *client.Attachment
		err := persist(ctx, attending, func() (err error) {
			if at, err = s.connect(ctx); err == nil {
				err = s.send(ctx, at)
			}
			return err
		}, func() {})
		if errors.Is(err, errInputLost) {
			lost <- err
		}
		last <- at
	}()
	left := false
	return func(keep bool) {
		if left {
			return
		}
		left = true
		cancel()
		at := <-last
		if keep && (at == nil || at.HasGone()) { // the next daemon is to know, too
			at, _ = s.connect(ctx) // without it the task is not removed before it has waited for us
		}
		if at != nil {
			_ = at.Close(keep) // a daemon that has gone asks who attaches to it
		}
	}
}

// connectTime is how long a daemon has to take a client that is about to leave.
const connectTime = 5 * time.Second

// connect attaches, for a moment longer than ctx lasts: a daemon that has taken a client which then goes
// without a word may remove the task.
func (s *session) connect(ctx context.Context) (*client.Attachment, error) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		client.Pause(longer, connectTime)
		cancel()
	})()
	return s.c.Attach(longer, s.id)
}

var errInputLost = errors.New("the daemon ended or was upgraded while the task had input to come, some of which may " +
	"be lost: the task is stopped")

// send passes on what is typed, and the sizes of the terminal, until ctx ends or the
// daemon has gone.
func (s *session) send(ctx context.Context, at *client.Attachment) error {
	defer context.AfterFunc(ctx, at.Interrupt)()
	var sizes <-chan client.WindowSize
	if s.tty {
		var stop func()
		sizes, stop = resizes()
		defer stop()
		s.firstSize(ctx, at)
	}
	for {
		typed, passed := s.typed, at.Passed()
		if s.over {
			typed = nil
		}
		if s.passed {
			passed = nil
		}
		var err error
		select {
		case p, more := <-typed:
			s.over = !more
			err = at.Input(p)
		case size := <-sizes:
			err = at.Resize(size)
		case <-passed:
			s.passed = true
		case <-ctx.Done():
			return nil
		case <-at.Gone():
			err = client.ErrBrokenOff
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && s.input && !s.tty && !s.passed:
			return errInputLost
		case err != nil:
			return client.ErrBrokenOff
		}
	}
}

// firstSize has the task know the size of the terminal. To a task that runs already it is
// a new size in any case, so that it shows anew what it has shown to others.
func (s *session) firstSize(ctx context.Context, at *client.Attachment) {
	select {
	case <-s.follows:
	case <-at.Gone():
	case <-ctx.Done():
	}
	size, is := windowSize()
	if is && s.tail == 0 {
		_ = at.Resize(client.WindowSize{Rows: size.Rows + 1, Cols: size.Cols + 1}) // as below
	}
	if is {
		_ = at.Resize(size) // that the daemon has gone is found out by who reads
	}
}

// read reads standard input as it comes, once for all daemons.
func (s *session) read() {
	defer close(s.typed)
	in := io.Reader(os.Stdin)
	if s.raw != nil {
		in = &detacher{Reader: os.Stdin, keys: s.keys}
	}
	for {
		p := make([]byte, 32<<10)
		n, err := in.Read(p)
		if n > 0 {
			s.typed <- p[:n]
		}
		if errors.Is(err, errDetached) {
			close(s.detached)
			select {} // no end of input
		}
		if err != nil {
			return
		}
	}
}

func (a *commands) attachCmd() *cobra.Command {
	var noInput bool
	var keys []byte
	c := app.Command("attach TASK", "show the output of a running task from now on, and pass on input to it",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
			t, err := a.client().Task(ctx, args[0])
			if err != nil {
				return err
			}
			if t.State == client.Exited {
				return fmt.Errorf("task %s has ended: see freejail logs %s", args[0], args[0])
			}
			s := a.newSession(t, !noInput, keys)
			s.tail = 0
			end, err := s.run(ctx)
			return a.ended(ctx, t.Spec.ID, end, err)
		})
	c.Long = `The client ends as the task does. The --detach-keys leave a task with a terminal, and
SIGKILL of the client any; "freejail logs -f" only looks. SIGINT and SIGTERM of the
client stop the task: it gets the signal, and SIGKILL after its stop timeout. SIGHUP,
QUIT, USR1 and USR2 are passed on to a task without a terminal. The end of standard
input is not that of the task's, which other clients may have more for; it is where the
task is of a "freejail run -i" without -d.`
	c.Flags().BoolVar(&noInput, "no-stdin", false, "pass on no input")
	detachKeys(c, &keys)
	return c
}

// detachKeys adds the flag of the keys that leave a task.
func detachKeys(c *cobra.Command, keys *[]byte) {
	set := func(text string) (err error) {
		*keys, err = parseKeys(text)
		return err
	}
	_ = set(defaultDetachKeys) // they are valid
	c.Flags().Func("detach-keys", "the `KEYS` that leave a task with a terminal (default: "+defaultDetachKeys+")", set)
}

// ended says how a session ended, and gives its exit code.
func (a *commands) ended(ctx context.Context, id string, end sessionEnd, err error) error {
	switch {
	case err != nil:
		return ownError(ctx, err)
	case end.detached:
		printable.Fprintf(os.Stderr, "freejail: detached; the task runs on: freejail attach %s\n", id)
		return nil
	}
	return exitOf(end.exit)
}
