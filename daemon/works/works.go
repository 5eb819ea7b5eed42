// Package works keeps count of what a daemon is doing for others: its starts, pulls
// and imports. An upgrade waits for what changes the host, and ends all else.
package works

import (
	"context"
	"errors"
	"sync"

	"github.com/freejail/freejail/daemon/client"
)

// Works are what is under way. The zero value is ready.
type Works struct {
	mu      sync.Mutex
	closed  error // why nothing may begin
	early   map[*Work]bool
	running sync.WaitGroup
}

// Work is one of them, early until Commit.
type Work struct {
	all    *Works
	cancel context.CancelCauseFunc
}

// Begin returns a context that ends with the work, or by the reason of Close.
func (s *Works) Begin(ctx context.Context) (context.Context, *Work, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return nil, nil, s.closed
	}
	w := &Work{all: s}
	ctx, w.cancel = context.WithCancelCause(ctx)
	if s.early == nil {
		s.early = map[*Work]bool{}
	}
	s.early[w] = true
	s.running.Add(1)
	return ctx, w, nil
}

// Commit makes Close wait for the work instead of ending it. It is an error where
// that has begun.
func (w *Work) Commit() error {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	delete(w.all.early, w)
	return w.all.closed
}

// End tells that the work is over.
func (w *Work) End() {
	w.all.mu.Lock()
	delete(w.all.early, w)
	w.all.mu.Unlock()
	w.cancel(nil)
	w.all.running.Done()
}

// Close lets nothing begin, and returns when nothing is under way.
func (s *Works) Close(why error) {
	s.mu.Lock()
	s.closed = why
	for w := range s.early {
		w.cancel(why)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Open takes Close back.
func (s *Works) Open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = nil
}

// Reasons of Close.
var (
	ErrUpgrading error = &client.Error{Code: client.CodeUpgrading, Message: "the daemon is being upgraded: try again"}
	ErrShutDown  error = &client.Error{Code: client.CodeUnavailable, Message: "the daemon is being shut down"}
	ErrHostDown  error = &client.Error{Code: client.CodeUnavailable,
		Message: "the host is being shut down: no task starts until the daemon is started again"}
)

var errGone error = &client.Error{Code: client.CodeUnavailable, Message: "who asked for it has gone away meanwhile"}

// Ended is why a context ended where someone has ended it, else err.
func Ended(ctx context.Context, err error) error {
	var why *client.Error
	switch cause := context.Cause(ctx); {
	case err != nil && errors.As(cause, &why):
		return why
	case err != nil && errors.Is(cause, context.Canceled):
		return errGone
	}
	return err
}
