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
			n, mib(now.heap), each(base.heap, now.heap, n), mib(now.rss))
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

// footprint is the daemon's memory in bytes: heap is what a collection of garbage leaves, with stacks.
type footprint struct{ heap, rss uint64 }

// sample asks the daemon small questions until garbage was collected three times: the last time has seen what is kept,
// and nothing of greater answers.
func (b *bench) sample(ctx context.Context) (footprint, error) {
	var last uint64
	for fell := 0; ; {
		info, err := b.daemon.Info(ctx)
		if err != nil {
			return footprint{}, err
		}
		if last, fell = info.MemoryBytes, fell+fallen(last, info.MemoryBytes); fell == 3 {
			resident, err := rss(info.PID)
			return footprint{info.MemoryLiveBytes, resident}, err
		}
	}
}

// fallen is 1 where so much less is in use than before that garbage was collected.
func fallen(before, now uint64) int {
	if now < before-before/8 {
		return 1
	}
	return 0
}

// each is what tasks that came between two samples take, in KiB for one of them.
func each(before, after uint64, tasks int) float64 {
	return float64(int64(after)-int64(before)) / 1024 / float64(tasks)
}
