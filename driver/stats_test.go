package driver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// Half a processor is half of one, whatever is done to the host's clock.
func TestUsageWhileTheClockIsSet(t *testing.T) {
	var m cpuMeter
	start := time.Now()
	for i, step := range []time.Duration{0, 0, -900 * time.Millisecond, 24 * time.Hour, -48 * time.Hour} {
		at := time.Duration(i+1) * time.Second
		u := &client.Usage{At: start.Add(at + step), Clock: at, UserTime: at / 2}
		got := m.sample("a/b/c", u).AggResourceUsage.Cpu.Percent
		if want := min(i, 1) * 50; got != float64(want) {
			t.Errorf("sample %d: %v %%, want %d", i, got, want)
		}
	}
	// An older daemon tells the time alone.
	m = cpuMeter{}
	for i := range 2 {
		at := time.Duration(i+1) * time.Second
		got := m.sample("a/b/c", &client.Usage{At: start.Add(at), UserTime: at / 2}).AggResourceUsage.Cpu.Percent
		if want := i * 50; got != float64(want) {
			t.Errorf("of an older daemon: %v %%, want %d", got, want)
		}
	}
}

// What the autoscaler reads of memory is there, and of a daemon that does not tell it what is resident.
func TestMemoryInUse(t *testing.T) {
	cache := uint64(3 << 20)
	for _, c := range []struct {
		u    client.Usage
		want uint64
	}{
		{client.Usage{RSS: 5 << 20, Memory: 9 << 20, Cache: &cache}, 9 << 20},
		{client.Usage{RSS: 5 << 20}, 5 << 20},
	} {
		got := new(cpuMeter).sample("a/b/c", &c.u).AggResourceUsage.Memory
		if got.Usage != c.want || !slices.Contains(got.MeasuredFields, proto.MemoryUsage_USAGE) {
			t.Errorf("%+v: %v", c.u, got)
		}
		if slices.Contains(got.MeasuredFields, proto.MemoryUsage_CACHE) != (c.u.Cache != nil) {
			t.Errorf("%+v: cache: %v", c.u, got)
		}
	}
}

// Swap that no kernel tells of is not measured as none.
func TestSwapThatIsNotTold(t *testing.T) {
	var m cpuMeter
	used := uint64(4096)
	for want, swap := range map[uint64]*uint64{0: nil, used: &used} {
		out := m.sample("a/b/c", &client.Usage{RSS: 1, Swap: swap, Procs: []client.ProcUsage{{PID: 7, RSS: 1}}})
		all := out.AggResourceUsage.Memory
		if all.Swap != want || slices.Contains(all.MeasuredFields, proto.MemoryUsage_SWAP) != (swap != nil) {
			t.Errorf("of all: %+v", all)
		}
		if one := out.ResourceUsageByPid["7"].Memory; slices.Contains(one.MeasuredFields, proto.MemoryUsage_SWAP) {
			t.Errorf("of a process: %+v", one)
		}
	}
}

// Whoever asks for the use of a task, all tasks are sampled at once; what is newer than the sample is asked for alone.
func TestAllUsageAtOnce(t *testing.T) {
	var all, one atomic.Int32
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) {
		all.Add(1)
		fmt.Fprint(w, `{"a":{"rss":1},"b":{"rss":2}}`)
	})
	m.HandleFunc("GET /v1/tasks/{id}/stats", func(w http.ResponseWriter, r *http.Request) {
		one.Add(1)
		if r.PathValue("id") == "ended" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"code":"not_found","message":"no such task"}`)
			return
		}
		fmt.Fprint(w, `{"rss":3}`)
	})
	c := daemonOf(t, m)
	u := usage{daemon: func() *client.Client { return c }, turn: make(chan struct{}, 1)}
	for id, want := range map[string]uint64{"a": 1, "b": 2, "new": 3} {
		got, err := u.of(t.Context(), id)
		if err != nil || got.RSS != want {
			t.Errorf("%s: %+v %v", id, got, err)
		}
		u.at = time.Now() // a slow host, too, has this sample
	}
	if _, err := u.of(t.Context(), "ended"); !client.IsNotFound(err) {
		t.Errorf("of one that has ended: %v", err)
	}
	if all.Load() != 1 || one.Load() != 2 {
		t.Errorf("all were asked for %d times, single ones %d times", all.Load(), one.Load())
	}
	u.turn <- struct{}{} // a daemon that hangs
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := u.of(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody asks any more, and is kept: %v", err)
	}
	<-u.turn
	u.at = time.Time{}
	if _, err := u.of(t.Context(), "a"); err != nil || all.Load() != 2 {
		t.Errorf("an old sample was taken: %v", err)
	}
}
