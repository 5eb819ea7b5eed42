package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/freejail/freejail/daemon/client"
)

var _ drivers.ExecTaskStreamingDriver = (*Driver)(nil)

// ExecTask runs a command and returns what it wrote.
func (d *Driver) ExecTask(taskID string, cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	e, err := d.exec(ctx, taskID, client.ExecSpec{Args: cmd}, client.ExecIO{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return nil, err
	}
	return &drivers.ExecTaskResult{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitResult: exitResult(e)}, nil
}

func (d *Driver) exec(ctx context.Context, taskID string, spec client.ExecSpec, xio client.ExecIO) (*client.Exit, error) {
	id := d.idOf(taskID)
	if id == "" {
		return nil, drivers.ErrTaskNotFound
	}
	if len(spec.Args) == 0 {
		return nil, errors.New("exec: no command given")
	}
	return d.daemon().Exec(ctx, id, spec, xio)
}

// ExecTaskStreaming runs a command with its streams, in a terminal if wanted.
func (d *Driver) ExecTaskStreaming(ctx context.Context, taskID string, o *drivers.ExecOptions) (*drivers.ExitResult, error) {
	defer o.Stdout.Close()
	defer o.Stderr.Close()
	resize := make(chan client.WindowSize)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case s, ok := <-o.ResizeCh:
				if !ok {
					return
				}
				select {
				case resize <- client.WindowSize{Rows: s.Height, Cols: s.Width}:
				case <-done:
					return
				}
			}
		}
	}()
	e, err := d.exec(ctx, taskID, client.ExecSpec{Args: o.Command, TTY: o.Tty},
		client.ExecIO{Stdin: io.Reader(o.Stdin), Stdout: o.Stdout, Stderr: o.Stderr, Resize: resize})
	if err != nil {
		var ce *client.Error
		if errors.As(err, &ce) && ce.Code == client.CodeInvalid {
			fmt.Fprintln(o.Stderr, err)
			return &drivers.ExitResult{ExitCode: 127, Err: err}, nil
		}
		return nil, err
	}
	if e.Known {
		return &drivers.ExitResult{ExitCode: e.Code, Signal: e.Signal}, nil
	}
	return exitResult(e), nil
}
