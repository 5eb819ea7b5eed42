package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

const rounds = 31

// starts compares whole starts of a task on an image that is unpacked already.
func (b *bench) starts(ctx context.Context) error {
	if _, err := b.startAndWait(ctx, client.TaskSpec{ID: "warm"}); err != nil { // unpacks
		return err
	}
	others, err := b.alternatives(ctx)
	if err != nil {
		return err
	}
	for _, c := range others.toEnd { // it can run what the next contest starts and kills
		if _, err := c.run(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	toRunning, toEnd := b.tasks(ctx, "freejail")
	if err := contest(rounds, "Start of a task from the request until its process runs",
		slices.Concat(others.ourRunning, []contestant{toRunning}, others.toRunning)...); err != nil {
		return err
	}
	return contest(rounds, "A whole task whose process does nothing, until nothing of it is left",
		slices.Concat(others.ourEnd, []contestant{toEnd}, others.toEnd)...)
}

// tasks are started by the daemon, and wait, or end.
func (b *bench) tasks(ctx context.Context, name string) (toRunning, toEnd contestant) {
	n := 0
	id := func() string { n++; return fmt.Sprintf("b%d-%d", os.Getpid(), n) }
	return contestant{name: name, run: func() (time.Duration, error) { return b.start(ctx, id(), sleepArgs) }},
		contestant{name: name, run: func() (time.Duration, error) {
			return b.startAndWait(ctx, client.TaskSpec{ID: id()})
		}}
}

// alternatives are what a user would take instead, on this system, and what freejail can take there.
type alternatives struct{ toRunning, toEnd, ourRunning, ourEnd []contestant }

// start tells the time until the process runs, and destroys the task after: an error where it had ended by itself.
func (b *bench) start(ctx context.Context, id string, args []string) (time.Duration, error) {
	return b.startSpec(ctx, client.TaskSpec{ID: id, Entrypoint: args})
}

func (b *bench) startSpec(ctx context.Context, spec client.TaskSpec) (time.Duration, error) {
	id := spec.ID
	spec.Owner, spec.Image = "cli", "bench"
	begin := time.Now()
	_, err := b.daemon.Start(ctx, spec)
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	e, err := b.daemon.Stop(ctx, id, client.StopRequest{Signal: "SIGKILL"})
	if err == nil && e.Signal != int(syscall.SIGKILL) {
		err = failure(e)
	}
	return took, errors.Join(err, b.daemon.Destroy(ctx, id, true))
}

func (b *bench) startAndWait(ctx context.Context, spec client.TaskSpec) (time.Duration, error) {
	spec.Owner, spec.Image, spec.Entrypoint = "cli", "bench", exitArgs
	begin := time.Now()
	if _, err := b.daemon.Start(ctx, spec); err != nil {
		return 0, err
	}
	err := errors.Join(b.succeeds(ctx, spec.ID), b.daemon.Destroy(ctx, spec.ID, true))
	return time.Since(begin), err
}

// succeeds waits for a task's end: what a task took that failed is the time of something else.
func (b *bench) succeeds(ctx context.Context, id string) error {
	e, err := b.daemon.Wait(ctx, id)
	if err == nil && (!e.Known || e.Code != 0 || e.Signal != 0) {
		err = failure(e)
	}
	return err
}

func failure(e *client.Exit) error {
	return fmt.Errorf("the task failed: exit code %d, signal %d %s", e.Code, e.Signal, e.Message)
}

// tree unpacks the image for the contestants that have no store.
func (b *bench) tree(ctx context.Context) (_ string, err error) {
	if b.unpacked == "" {
		b.unpacked, err = unpackedTree(ctx, b.archive, b.path("tree"))
	}
	return b.unpacked, err
}
