package task

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/network"
)

// usageAge is how old a sample may be: many tasks are asked for one by one,
// and one pass over the system's processes serves them all.
const usageAge = 500 * time.Millisecond

type usageCache struct {
	mu sync.Mutex
	sample
	failure string // with which traffic was not counted last
}

// sample is what jails used at a time, and what links carried, by their names.
type sample struct {
	at      time.Time
	jails   map[string]jail.Usage
	traffic map[string]network.Counters
}

func (m *Manager) sample() (sample, error) {
	c := &m.usage
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < usageAge {
		return c.sample, nil
	}
	u, err := m.Jails.Stats()
	if err != nil {
		return sample{}, err
	}
	c.sample = sample{time.Now(), u, m.traffic()}
	return c.sample, nil
}

// traffic is none where it cannot be counted: what else tasks use is told all the same. It is called with the
// cache's lock.
func (m *Manager) traffic() map[string]network.Counters {
	if m.Traffic == nil {
		return nil
	}
	all, err := m.Traffic()
	if err == nil {
		m.usage.failure = ""
	} else if m.usage.failure != err.Error() {
		m.usage.failure = err.Error()
		m.Log.Warn("traffic of tasks is not counted", "error", err)
	}
	return all
}

// of is the use of a task, if it runs.
func (s sample) of(t client.Task) (out client.Usage, ok bool) {
	u, ok := s.jails[t.Jail]
	if !ok {
		return out, false
	}
	out = client.Usage{At: s.at, Clock: monotonic(s.at), UserTime: u.UserTime, SysTime: u.SysTime, RSS: u.RSS,
		Memory: u.Memory, Cache: u.Cache, Swap: u.Swap}
	for _, p := range u.Procs {
		out.Procs = append(out.Procs, client.ProcUsage(p))
	}
	if t.Network != nil && t.Network.Link != "" {
		if c, ok := s.traffic[t.Network.Link]; ok {
			out.Traffic = &client.Traffic{BytesIn: c.BytesIn, BytesOut: c.BytesOut, PacketsIn: c.PacketsIn,
				PacketsOut: c.PacketsOut}
		}
	}
	return out, true
}

// Usage is what a task uses.
func (m *Manager) Usage(id string) (out client.Usage, err error) {
	t, err := m.find(id)
	if err != nil {
		return out, err
	}
	all, err := m.sample()
	if err != nil {
		return out, err
	}
	out, ok := all.of(t.snapshot())
	if !ok {
		return out, client.NotFound("task %s has no running process", id)
	}
	return out, nil
}

// AllUsage is what each task uses, by id.
func (m *Manager) AllUsage() (map[string]client.Usage, error) {
	all, err := m.sample()
	out := map[string]client.Usage{}
	for _, t := range m.list() {
		if u, ok := all.of(t.snapshot()); ok {
			out[t.id()] = u
		}
	}
	return out, err
}

// monotonic is when at was by the host's clock that nobody sets; 0 where it has none.
func monotonic(at time.Time) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()) - time.Since(at)
}
