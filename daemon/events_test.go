package daemon

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// failAStart makes an event.
func failAStart(t *testing.T, c *client.Client) {
	t.Helper()
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "event", Owner: "cli", Image: "nothere"}); err == nil {
		t.Error("an image that is not there was started")
	}
}

var errEnough = errors.New("enough")

// next is the first event after a number, at once or when it comes.
func next(t *testing.T, c *client.Client, after uint64, do func()) (seq uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := make(chan struct{})
	go func() { // what is told while the reader begins counts for it or not
		defer close(began)
		for ctx.Err() == nil && seq == 0 {
			do()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	err := c.Events(ctx, after, true, func(e client.Event) error {
		seq = e.Seq
		return errEnough
	})
	cancel()
	<-began
	if !errors.Is(err, errEnough) {
		t.Errorf("no event after %d: %v", after, err)
	}
	return seq
}

// The numbers of events grow over restarts of the daemon, whatever its clock says,
// and a reader that took the time for one, on whose clock it is tomorrow, gets what
// comes.
func TestNumbersOfEvents(t *testing.T) {
	dir := shortDir(t)
	last := uint64(0)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		c, stop := daemonAt(t, dir, "")
		failAStart(t, c)
		count := 0
		if err := c.Events(t.Context(), last, false, func(e client.Event) error {
			if e.Seq <= last {
				t.Errorf("event %d comes after %d", e.Seq, last)
			}
			last = e.Seq
			count++
			return nil
		}); err != nil || count == 0 {
			t.Errorf("%d events after %d: %v", count, last, err)
		}
		tomorrow := uint64(time.Now().Add(24 * time.Hour).UnixMicro())
		if last >= tomorrow {
			t.Errorf("the numbers begin at %d", last)
		}
		if seq := next(t, c, tomorrow, func() { failAStart(t, c) }); seq <= last {
			t.Errorf("event %d comes after %d", seq, last)
		}
		if err := c.Events(t.Context(), last, false,
			func(e client.Event) error { last = e.Seq; return nil }); err != nil {
			t.Error(err)
		}
		stop(end)
	}
}
