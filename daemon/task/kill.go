package task

import (
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// due is when a task that is being stopped is killed. It is in the journal: the next
// daemon keeps it.
type due struct {
	At  time.Time     `json:"at"`
	Up  time.Duration `json:"up,omitempty"`  // At by the clock that nobody sets; 0 in the journals of older versions
	Why string        `json:"why,omitempty"` // in words, where the task was given time to end
}

// stepped is by how much At and Up may differ where nobody has set the clock.
const stepped = 5 * time.Second

// read has a time of the journal be what it was before the clock was set, if it was.
func (d *due) read() *due {
	if d.Up == 0 {
		return d
	}
	now := time.Now()
	if at := now.Add(d.Up - monotonic(now)); at.Sub(d.At).Abs() > stepped {
		d.At = at
	}
	return d
}

// deregisterTime is more than a stop waits for Consul.
const deregisterTime = 10 * time.Second

// killAt has a task killed at a time, unless it has ended by then or was to be killed
// earlier already. It waits for neither.
func (m *Manager) killAt(t *task, at time.Time, why string) {
	m.note(t, "stop", func(i *client.Task) {
		if i.State == client.Running {
			i.State = client.Stopping
		}
		if t.kill == nil || at.Before(t.kill.At) {
			t.kill = &due{At: at, Up: monotonic(at), Why: why}
		}
	})
	m.keepKill(t)
}

// keepKill has somebody wait for the time at which a task is to be killed, if it is.
func (m *Manager) keepKill(t *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.kill == nil:
	case t.hasten == nil:
		t.hasten = make(chan struct{}, 1)
		go m.killInTime(t, t.hasten)
	default:
		select {
		case t.hasten <- struct{}{}:
		default: // it is told already
		}
	}
}

func (m *Manager) killInTime(t *task, hasten <-chan struct{}) {
	for {
		t.mu.Lock()
		kill := *t.kill
		t.mu.Unlock()
		late := time.NewTimer(time.Until(kill.At))
		select {
		case <-t.done:
			late.Stop()
			return
		case <-hasten:
			late.Stop()
		case <-late.C:
			if kill.Why != "" {
				m.Event(t.id(), "killing", kill.Why+": killed")
			}
			m.kill(t)
			return
		}
	}
}

// killTime is how long processes may take to die of SIGKILL before their jail is
// taken from them, in which they may fork faster than they are found.
const killTime = time.Second

// kill returns when the end of the task is told.
func (m *Manager) kill(t *task) {
	if t.state() != client.Exited {
		m.sendKill(t)
	}
	var late <-chan time.Time
	outrun, soon := time.After(killTime), time.After(awayTime)
	for {
		select {
		case <-t.done:
			return
		case <-outrun:
			if err := m.Jails.Kill(t.snapshot().Jail); err != nil {
				m.Log.Warn("kill", "task", t.id(), "error", err)
			}
		case <-soon:
			more, err := t.root.abandon()
			if err != nil {
				m.Log.Warn("nfs", "task", t.id(), "error", err)
			}
			late = time.After(more)
		case <-late: // it is swept up when the kernel lets go of it
			m.finish(t, m.undying(t), isNoted)
		}
	}
}

func (m *Manager) sendKill(t *task) {
	t.mu.Lock()
	name := t.info.Jail
	t.outlived = t.info.Exit != nil
	t.mu.Unlock()
	if err := m.Jails.Signal(name, 0, syscall.SIGKILL); err != nil {
		m.Log.Debug("kill", "task", t.id(), "error", err)
	}
	// A process that waits for a server which is away dies of this.
	if err := t.root.leave(); err != nil {
		m.Log.Warn("nfs", "task", t.id(), "error", err)
	}
}
