package task

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What the kernel holds is given up in time, and what it has held is known when it ends
// after all.
func TestBounded(t *testing.T) {
	errLate, errOwn := errors.New("late"), errors.New("its own")
	for name, c := range map[string]struct {
		takes, most time.Duration
		follows     bool // its context
		freed       bool // when it is abandoned
		stops       time.Duration

		want error
		held bool
		wait time.Duration
	}{
		"without bounds":  {takes: time.Hour, want: errOwn, wait: time.Hour},
		"in time":         {takes: time.Second, most: time.Minute, want: errOwn, wait: time.Second},
		"late, and ends":  {takes: time.Hour, most: time.Minute, follows: true, want: errLate, wait: time.Minute},
		"late, and freed": {takes: time.Hour, most: time.Minute, freed: true, want: errLate, wait: time.Minute},
		"late, and held": {takes: time.Hour, most: time.Minute, want: errLate, held: true, wait: time.Minute +
			time.Second},
		"stopped": {takes: time.Hour, most: time.Minute, follows: true, stops: time.Second,
			want: context.Canceled, wait: time.Second},
		"stopped, and held": {takes: time.Hour, most: time.Minute, stops: time.Second,
			want: context.Canceled, held: true, wait: time.Second + awayTime + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.stops > 0 {
					time.AfterFunc(c.stops, cancel)
				}
				freed := make(chan struct{})
				b := bounds{most: c.most, late: errLate, grace: time.Second, abandon: func() error {
					if c.freed {
						close(freed)
					}
					return nil
				}}
				begun := time.Now()
				err := bounded(ctx, b, func(ctx context.Context) error {
					var follow <-chan struct{}
					if c.follows {
						follow = ctx.Done()
					}
					select {
					case <-time.After(c.takes):
					case <-follow:
					case <-freed:
					}
					return errOwn
				})
				var h *heldError
				if held := errors.As(err, &h); held != c.held || time.Since(begun) != c.wait {
					t.Errorf("%v after %s, held %v; want %v after %s", err, time.Since(begun), held, c.want, c.wait)
				}
				if !errors.Is(err, c.want) && err.Error() != c.want.Error() {
					t.Errorf("%v, want %v", err, c.want)
				}
				if h != nil && <-h.done != errOwn {
					t.Error("how it ended after all is lost")
				}
			})
		})
	}
}
