package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// works are the starts, pulls and imports under way. An upgrade waits for the
// starts that change the host, and ends all else: that may take any time.
type works struct {
	mu      sync.Mutex
	closed  error // why nothing may begin
	early   map[*work]bool
	running sync.WaitGroup
}

// work is one of them, early until commit.
type work struct {
	all    *works
	cancel context.CancelCauseFunc
}

// begin returns a context that ends with the work, or by the reason of close.
func (s *works) begin(ctx context.Context) (context.Context, *work, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return nil, nil, s.closed
	}
	w := &work{all: s}
	ctx, w.cancel = context.WithCancelCause(ctx)
	if s.early == nil {
		s.early = map[*work]bool{}
	}
	s.early[w] = true
	s.running.Add(1)
	return ctx, w, nil
}

// commit makes close wait for the work instead of ending it.
func (w *work) commit() error {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	delete(w.all.early, w)
	return w.all.closed
}

func (w *work) end() {
	w.all.mu.Lock()
	delete(w.all.early, w)
	w.all.mu.Unlock()
	w.cancel(nil)
	w.all.running.Done()
}

// close lets nothing begin, and returns when nothing is under way.
func (s *works) close(why error) {
	s.mu.Lock()
	s.closed = why
	for w := range s.early {
		w.cancel(why)
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *works) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = nil
}

var (
	errUpgrading error = &client.Error{Code: client.CodeUpgrading, Message: "the daemon is being upgraded: try again"}
	errGone      error = &client.Error{Code: client.CodeUnavailable, Message: "who asked for it has gone away meanwhile"}
	errShutDown  error = &client.Error{Code: client.CodeUnavailable, Message: "the daemon is being shut down"}
	errHostDown  error = &client.Error{Code: client.CodeUnavailable,
		Message: "the host is being shut down: no task is started until it, or the daemon, was started again"}
	errNoUpgrade error = &client.Error{Code: client.CodeUnavailable,
		Message: "no upgrade: the host is being shut down; start the daemon again for tasks to start (" + startAgain + ")"}
)

// ended is why a context ended where someone has ended it, else err.
func ended(ctx context.Context, err error) error {
	var why *client.Error
	switch cause := context.Cause(ctx); {
	case err != nil && errors.As(cause, &why):
		return why
	case err != nil && errors.Is(cause, context.Canceled):
		return errGone
	}
	return err
}

// answerTime is how long a client has to take an answer that others wait for.
const answerTime = 5 * time.Second

// asWork answers a request, whose body was read, with what takes its time.
func (d *Daemon) asWork(w http.ResponseWriter, r *http.Request, f func(*http.Request, *work)) {
	ctx, job, err := d.works.begin(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	defer job.end()
	out := http.NewResponseController(w)
	stop := context.AfterFunc(ctx, func() {
		_ = out.SetWriteDeadline(time.Now().Add(answerTime)) // of a closed connection there is none
	})
	f(r.WithContext(ctx), job)
	_ = out.Flush() // who asked may be gone
	if !stop() {
		_ = out.SetWriteDeadline(time.Time{})
	}
}

// stopped is what becomes of a start that someone ended.
func stopped(id string) error {
	return client.Conflict("task %s was stopped while it was starting", id)
}
