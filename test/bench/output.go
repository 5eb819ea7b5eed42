package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// output compares how fast a task without Nomad can write to its log, which the
// daemon copies and bounds, with the same program and a file, and a pipe through
// cat(1) into a file.
func (b *bench) output(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n, started := strconv.Itoa(logMiB), 0
	return contest(5, fmt.Sprintf("%d MiB of lines from a task to the daemon's log", logMiB),
		contestant{name: "freejail", run: func() (time.Duration, error) {
			started++
			return b.ownLog(ctx, fmt.Sprintf("o%d-%d", os.Getpid(), started), n)
		}},
		contestant{name: "the program, into a file", run: func() (time.Duration, error) {
			return b.intoFile(ctx, self, n, false)
		}},
		contestant{name: "the program, through cat into a file", run: func() (time.Duration, error) {
			return b.intoFile(ctx, self, n, true)
		}})
}

func (b *bench) ownLog(ctx context.Context, id, mib string) (time.Duration, error) {
	if _, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: "bench", Command: "program",
		Args: []string{"lines", mib}}); err != nil {
		return 0, err
	}
	var told bytes.Buffer
	err := b.succeeds(ctx, id)
	err = errors.Join(err, b.daemon.Logs(ctx, id, "stderr", false, -1, &told), b.daemon.Destroy(ctx, id, true))
	return took(told.String(), err)
}

func (b *bench) intoFile(ctx context.Context, self, mib string, piped bool) (time.Duration, error) {
	path := b.path("lines")
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer os.Remove(path)
	defer f.Close()
	var told bytes.Buffer
	c := exec.CommandContext(ctx, self, "program", "lines", mib)
	c.Stdout, c.Stderr = f, &told
	if !piped {
		err := c.Run()
		return took(told.String(), err)
	}
	cat := exec.CommandContext(ctx, "cat")
	cat.Stdout = f
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cat.Stdin, c.Stdout = r, w
	if err := errors.Join(cat.Start(), r.Close()); err != nil {
		return 0, errors.Join(err, w.Close())
	}
	err = errors.Join(c.Run(), w.Close(), cat.Wait())
	return took(told.String(), err)
}

func took(told string, err error) (time.Duration, error) {
	if err != nil {
		return 0, err
	}
	var ns int64
	_, err = fmt.Sscanf(told, "took %d", &ns)
	return time.Duration(ns), err
}
