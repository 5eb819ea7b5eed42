package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

const rounds = 31

// starts compares whole starts of a task on an image that is unpacked already.
func (b *bench) starts(ctx context.Context) error {
	if _, err := b.start(ctx, "warm", exitArgs); err != nil { // unpacks
		return err
	}
	n := 0
	id := func() string { n++; return fmt.Sprintf("b%d-%d", os.Getpid(), n) }
	toRunning := contestant{"freejail, from the request to the answer that it runs",
		func() (time.Duration, error) { return b.start(ctx, id(), sleepArgs) }}
	toEnd := contestant{"freejail", func() (time.Duration, error) { return b.startAndWait(ctx, id()) }}
	others, err := b.alternatives(ctx)
	if err != nil {
		return err
	}
	if err := contest(rounds, "Start of a task until its process runs",
		append([]contestant{toRunning}, others.toRunning...)...); err != nil {
		return err
	}
	return contest(rounds, "A whole task whose process does nothing, until nothing of it is left",
		append([]contestant{toEnd}, others.toEnd...)...)
}

// alternatives are what a user would take instead, on this system.
type alternatives struct{ toRunning, toEnd []contestant }

// start tells the time until the process runs, and destroys the task after.
func (b *bench) start(ctx context.Context, id string, args []string) (time.Duration, error) {
	begin := time.Now()
	_, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: "bench", Entrypoint: args})
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	return took, b.daemon.Destroy(ctx, id, true)
}

func (b *bench) startAndWait(ctx context.Context, id string) (time.Duration, error) {
	begin := time.Now()
	if _, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: "bench",
		Entrypoint: exitArgs}); err != nil {
		return 0, err
	}
	if _, err := b.daemon.Wait(ctx, id); err != nil {
		return 0, err
	}
	err := b.daemon.Destroy(ctx, id, true)
	return time.Since(begin), err
}

// tree unpacks the image for the contestants that have no store.
func (b *bench) tree(ctx context.Context) (string, error) {
	return unpackedTree(ctx, b.archive, b.path("tree"))
}
