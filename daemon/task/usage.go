package task

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
)

// usageAge is how old a sample may be: many tasks are asked for one by one,
// and one pass over the system's processes serves them all.
const usageAge = 500 * time.Millisecond

type usageCache struct {
	mu   sync.Mutex
	at   time.Time
	last map[string]jail.Usage
}

func (m *Manager) sample() (map[string]jail.Usage, time.Time, error) {
	c := &m.usage
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < usageAge {
		return c.last, c.at, nil
	}
	u, err := m.Jails.Stats()
	if err != nil {
		return nil, c.at, err
	}
	c.last, c.at = u, time.Now()
	return c.last, c.at, nil
}

// Usage is what a task uses.
func (m *Manager) Usage(id string) (out client.Usage, err error) {
	t, err := m.find(id)
	if err != nil {
		return out, err
	}
	all, at, err := m.sample()
	if err != nil {
		return out, err
	}
	u, ok := all[t.snapshot().Jail]
	if !ok {
		return out, client.NotFound("task %s has no running process", id)
	}
	return wireUsage(u, at), nil
}

// AllUsage is what each task uses, by id.
func (m *Manager) AllUsage() (map[string]client.Usage, error) {
	all, at, err := m.sample()
	out := map[string]client.Usage{}
	for _, t := range m.list() {
		if u, ok := all[t.snapshot().Jail]; ok {
			out[t.id()] = wireUsage(u, at)
		}
	}
	return out, err
}

func wireUsage(u jail.Usage, at time.Time) client.Usage {
	out := client.Usage{At: at, Clock: monotonic(at), UserTime: u.UserTime, SysTime: u.SysTime, RSS: u.RSS,
		Swap: u.Swap}
	for _, p := range u.Procs {
		out.Procs = append(out.Procs, client.ProcUsage(p))
	}
	return out
}

// monotonic is when at was by the host's clock that nobody sets; 0 where it has none.
func monotonic(at time.Time) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()) - time.Since(at)
}
