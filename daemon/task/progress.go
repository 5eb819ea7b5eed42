package task

import (
	"context"
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

// AwaitRecovery keeps who needs the state of the tasks waiting, for some time; then it
// is an error.
func (m *Manager) AwaitRecovery(ctx context.Context) error {
	r := m.recovery
	select {
	case <-r.over:
	case <-ctx.Done():
	case <-time.After(holdTime):
	}
	return r.err()
}

// Recovered is closed when the daemon has taken over all that an earlier one left.
func (m *Manager) Recovered() <-chan struct{} { return m.recovery.over }

// Progress tells in words how far the recovery is; empty when it is over.
func (m *Manager) Progress() string {
	if err := m.recovery.err(); err != nil {
		return err.Error()
	}
	return ""
}
