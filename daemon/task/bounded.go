package task

import (
	"context"
	"errors"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// bounds are for what the kernel may hold, as it does while a server is away. Without
// most there is nothing that could.
type bounds struct {
	most    time.Duration // for all of it
	late    error         // of what took longer
	abandon func() error  // has the kernel wait no longer; nil where nothing can be done
	grace   time.Duration // after that
}

// heldError is what the kernel holds in spite of all: done tells when it is over.
type heldError struct {
	error
	done <-chan error
}

func (h *heldError) Unwrap() error { return h.error }

// bounded waits for do within its bounds, and until ctx has ended and do does not
// follow. Then do's context ends, and it is abandoned. What does not return even so is
// a *heldError error.
func bounded(ctx context.Context, b bounds, do func(context.Context) error) error {
	if b.most == 0 {
		return do(ctx)
	}
	in, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(in) }()
	why := b.late
	select {
	case err := <-done:
		return err
	case <-time.After(b.most):
	case <-ctx.Done(): // most ends with it
		why = context.Cause(ctx)
		if await(context.WithoutCancel(ctx), done, awayTime) {
			return why
		}
	}
	cancel()
	if b.abandon != nil {
		why = errors.Join(why, b.abandon())
	}
	why = client.Unavailable("%v", why)
	if await(context.WithoutCancel(ctx), done, b.grace) {
		return why
	}
	return &heldError{why, done}
}

// await waits for something to be done, for some time at most and while ctx lasts. It
// is false where it is not done yet.
func await[T any](ctx context.Context, done <-chan T, most time.Duration) bool {
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}
