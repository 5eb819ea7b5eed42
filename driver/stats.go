package driver

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/freejail/freejail/daemon/client"
)

// TaskStats samples a task at an interval until the agent or the task ends.
func (d *Driver) TaskStats(req *proto.TaskStatsRequest, stream proto.Driver_TaskStatsServer) error {
	interval := req.CollectionInterval.AsDuration()
	if interval <= 0 {
		interval = time.Second
	}
	ctx, id, meter := stream.Context(), daemonID(req.TaskId), cpuMeter{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		u, err := d.usage.of(ctx, id)
		if client.IsNotFound(err) {
			return nil
		}
		if err == nil { // a daemon that is away comes back
			if err := stream.Send(&proto.TaskStatsResponse{Stats: meter.sample(req.TaskId, u)}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// usage samples all tasks at once: agents ask after each by itself, every second.
type usage struct {
	daemon func() *client.Client

	turn chan struct{} // guards what follows
	at   time.Time
	all  map[string]client.Usage
}

// usageAge is how old a sample may be. With the daemon's own it is less than the interval of agents.
const usageAge = 250 * time.Millisecond

func (u *usage) of(ctx context.Context, id string) (*client.Usage, error) {
	all, err := u.sample(ctx)
	if err != nil {
		return nil, err
	}
	if one, ok := all[id]; ok {
		return &one, nil
	}
	return u.daemon().Stats(ctx, id) // it is newer, or has ended
}

// sample is that of all tasks, which nobody changes.
func (u *usage) sample(ctx context.Context) (map[string]client.Usage, error) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-u.turn }()
	if time.Since(u.at) >= usageAge {
		all, err := u.daemon().AllStats(ctx)
		if err != nil {
			return nil, err
		}
		u.at, u.all = time.Now(), all
	}
	return u.all, nil
}

var (
	measuredCPU = []proto.CPUUsage_Fields{proto.CPUUsage_SYSTEM_MODE, proto.CPUUsage_USER_MODE,
		proto.CPUUsage_PERCENT, proto.CPUUsage_TOTAL_TICKS}
	measuredRSS = []proto.MemoryUsage_Fields{proto.MemoryUsage_RSS}
)

// cpuMeter turns CPU time that adds up into shares of an interval. It keeps
// the last sample of each process, and of the whole task as process 0.
type cpuMeter struct {
	at    time.Time
	clock time.Duration
	procs map[int]client.ProcUsage
}

func (m *cpuMeter) sample(taskID string, u *client.Usage) *proto.TaskStats {
	last, wall := m.procs, u.At.Sub(m.at)
	if u.Clock != 0 && m.clock != 0 {
		wall = u.Clock - m.clock
	}
	m.at, m.clock, m.procs = u.At, u.Clock, map[int]client.ProcUsage{}
	usage := func(p client.ProcUsage, memory *proto.MemoryUsage) *proto.TaskResourceUsage {
		m.procs[p.PID] = p
		var user, sys float64
		if prev, ok := last[p.PID]; ok && wall > 0 {
			user = max(0, 100*float64(p.UserTime-prev.UserTime)/float64(wall))
			sys = max(0, 100*float64(p.SysTime-prev.SysTime)/float64(wall))
		}
		return &proto.TaskResourceUsage{
			Cpu: &proto.CPUUsage{UserMode: user, SystemMode: sys, Percent: user + sys,
				TotalTicks: (user + sys) / 100 * hostMHz(), MeasuredFields: measuredCPU},
			Memory: memory}
	}
	whole := client.ProcUsage{UserTime: u.UserTime, SysTime: u.SysTime}
	out := &proto.TaskStats{Id: taskID, Timestamp: timestamppb.New(u.At),
		ResourceUsageByPid: map[string]*proto.TaskResourceUsage{},
		AggResourceUsage:   usage(whole, memoryUsage(u))}
	for _, p := range u.Procs {
		one := &proto.MemoryUsage{Rss: p.RSS, MeasuredFields: measuredRSS}
		out.ResourceUsageByPid[strconv.Itoa(p.PID)] = usage(p, one)
	}
	return out
}

// memoryUsage is without what the host's kernel does not tell. Usage is what counts for the task's
// limit, as with Nomad's own drivers: its autoscaler reads it. Of an older daemon it is what is resident.
func memoryUsage(u *client.Usage) *proto.MemoryUsage {
	out := &proto.MemoryUsage{Rss: u.RSS, Usage: cmp.Or(u.Memory, u.RSS),
		MeasuredFields: []proto.MemoryUsage_Fields{proto.MemoryUsage_RSS, proto.MemoryUsage_USAGE}}
	if u.Cache != nil {
		out.Cache, out.MeasuredFields = *u.Cache, append(out.MeasuredFields, proto.MemoryUsage_CACHE)
	}
	if u.Swap != nil {
		out.Swap, out.MeasuredFields = *u.Swap, append(out.MeasuredFields, proto.MemoryUsage_SWAP)
	}
	return out
}
