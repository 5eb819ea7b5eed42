package driver

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/freejail/freejail/daemon/client"
)

// cpuMeter turns CPU time that adds up into shares of an interval.
type cpuMeter struct {
	mu   sync.Mutex
	last map[string]client.Usage
}

func (m *cpuMeter) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.last, func(key string, _ client.Usage) bool { return key == id || strings.HasPrefix(key, id+"/") })
}

// percent is the use since the last sample; 100 is one core.
func (m *cpuMeter) percent(id string, u client.Usage) (user, sys float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	prev, ok := m.last[id]
	m.last[id] = u
	wall := u.At.Sub(prev.At)
	if !ok || wall <= 0 {
		return 0, 0
	}
	return max(0, 100*float64(u.UserTime-prev.UserTime)/float64(wall)), max(0, 100*float64(u.SysTime-prev.SysTime)/float64(wall))
}

// TaskStats samples a task at an interval until ctx or the task ends.
func (d *Driver) TaskStats(ctx context.Context, taskID string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	id := d.idOf(taskID)
	if id == "" {
		return nil, drivers.ErrTaskNotFound
	}
	if interval <= 0 {
		interval = time.Second
	}
	out := make(chan *drivers.TaskResourceUsage)
	go func() {
		defer close(out)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			if u, err := d.daemon().Stats(ctx, id); err == nil {
				select {
				case out <- d.usage(id, u):
				case <-ctx.Done():
					return
				}
			} else if client.IsNotFound(err) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

var (
	measuredCPU = []string{"System Mode", "User Mode", "Percent", "Total Ticks"}
	measuredMem = []string{"RSS", "Swap"}
)

func (d *Driver) usage(id string, u *client.Usage) *drivers.TaskResourceUsage {
	user, sys := d.cpu.percent(id, *u)
	out := &drivers.TaskResourceUsage{Timestamp: u.At.UnixNano(), Pids: map[string]*drivers.ResourceUsage{}, ResourceUsage: &drivers.ResourceUsage{
		CpuStats:    &drivers.CpuStats{UserMode: user, SystemMode: sys, Percent: user + sys, TotalTicks: (user + sys) / 100 * hostMHz(), Measured: measuredCPU},
		MemoryStats: &drivers.MemoryStats{RSS: u.RSS, Swap: u.Swap, Measured: measuredMem}}}
	for _, p := range u.Procs {
		key := id + "/" + strconv.Itoa(p.PID)
		user, sys := d.cpu.percent(key, client.Usage{At: u.At, UserTime: p.UserTime, SysTime: p.SysTime})
		out.Pids[strconv.Itoa(p.PID)] = &drivers.ResourceUsage{
			CpuStats:    &drivers.CpuStats{UserMode: user, SystemMode: sys, Percent: user + sys, Measured: measuredCPU},
			MemoryStats: &drivers.MemoryStats{RSS: p.RSS, Measured: measuredMem}}
	}
	return out
}
