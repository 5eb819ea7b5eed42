package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/freejail/freejail/daemon/client"
)

// memory tells what the daemon keeps for tasks that run, and what Nomad's
// raw_exec driver does, which has an executor process for each.
func (b *bench) memory(ctx context.Context) error {
	fmt.Printf("\nMemory for tasks that run\n")
	base, err := b.sample(ctx)
	if err != nil {
		return err
	}
	started := 0
	for _, n := range []int{1, 50, 200} {
		for ; started < n; started++ {
			id := fmt.Sprintf("m%d-%d", os.Getpid(), started)
			if _, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: "bench"}); err != nil {
				return err
			}
		}
		now, err := b.sample(ctx)
		if err = errors.Join(err, b.allRun(ctx, n)); err != nil {
			return err
		}
		fmt.Printf("  freejail, %3d tasks: the daemon's heap %10s, %8.1f KiB a task; resident %10s; no other process\n",
			n, mib(now.heap), float64(int64(now.heap)-int64(base.heap))/1024/float64(n), mib(now.rss))
	}
	for i := range started {
		if err := b.daemon.Destroy(ctx, fmt.Sprintf("m%d-%d", os.Getpid(), i), true); err != nil {
			return err
		}
	}
	return nil
}

// allRun makes sure that there is what the memory is divided by.
func (b *bench) allRun(ctx context.Context, want int) error {
	tasks, err := b.daemon.Tasks(ctx)
	n := 0
	for _, t := range tasks {
		if t.State == client.Running {
			n++
		}
	}
	if err == nil && n != want {
		err = fmt.Errorf("%d tasks run, want %d", n, want)
	}
	return err
}

type footprint struct{ heap, rss uint64 }

func (b *bench) sample(ctx context.Context) (footprint, error) {
	info, err := b.daemon.Info(ctx)
	if err != nil {
		return footprint{}, err
	}
	resident, err := rss(info.PID)
	return footprint{info.MemoryBytes, resident}, err
}
