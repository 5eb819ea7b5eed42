package daemon

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// recovery is how far the daemon has come with what an earlier one left.
type recovery struct {
	total, done atomic.Int64
	over        chan struct{}
}

func newRecovery() *recovery { return &recovery{over: make(chan struct{})} }

// err is nil when all is recovered.
func (r *recovery) err() error {
	select {
	case <-r.over:
		return nil
	default:
		return client.Errorf(client.CodeRecovering, "recovering: %d of %d tasks", r.done.Load(), r.total.Load())
	}
}

// holdTime is how long a request is kept waiting before it is told why: most
// recoveries are over by then, as that of an upgrade.
const holdTime = 5 * time.Second

func (r *recovery) wait(ctx context.Context) error {
	select {
	case <-r.over:
	case <-ctx.Done():
	case <-time.After(holdTime):
	}
	return r.err()
}

// whenRecovered is for what needs the state of the tasks. What else is asked is
// answered at once.
func (d *Daemon) whenRecovered(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := d.recovery.wait(r.Context()); err != nil {
			writeError(w, err)
			return
		}
		h(w, r)
	}
}

// Recovered is closed when the daemon has taken over all that an earlier one left.
func (d *Daemon) Recovered() <-chan struct{} { return d.recovery.over }

// Progress tells in words how far the recovery is; empty when it is over.
func (d *Daemon) Progress() string {
	if err := d.recovery.err(); err != nil {
		return err.Error()
	}
	return ""
}
