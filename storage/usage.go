package storage

import (
	"context"
	"errors"
	"math"
)

// Measurer tells what takes room on the disk, in bytes: drivers that are none keep nothing of their own.
type Measurer interface {
	// ChainOwn is what a chain takes beside the chains that it shares files with.
	ChainOwn(ctx context.Context, chain string) (int64, error)
	// RootOwn is what a task wrote to its root. No such root is 0.
	RootOwn(ctx context.Context, task string) (int64, error)
	// Place tells drivers that keep the same chains and roots from others.
	Place() string
}

// Place is the directory of the chains.
func (d *dirs) Place() string { return d.base }

// ChainOwn is all of a chain: directories share nothing.
func (d *dirs) ChainOwn(ctx context.Context, chain string) (int64, error) {
	return d.ChainSize(ctx, chain)
}

// RootOwn measures as for a limit, but the whole tree.
func (d *dirs) RootOwn(ctx context.Context, task string) (n int64, err error) {
	m, err := d.Meter(task)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err = m.Measure(math.MaxInt64, func(int) error { return ctx.Err() })
	return n, errors.Join(err, m.Close())
}
