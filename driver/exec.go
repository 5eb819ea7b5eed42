package driver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// notFound is a shell's exit code for a command that is not there, where the daemon has none.
const notFound = 127

// ExecTask runs a command and returns what it wrote. A timeout of 0 is none.
func (d *Driver) ExecTask(ctx context.Context, req *proto.ExecTaskRequest) (*proto.ExecTaskResponse, error) {
	if t := req.Timeout.AsDuration(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	var stdout, stderr bytes.Buffer
	e, err := d.exec(ctx, req.TaskId, client.ExecSpec{Args: req.Command},
		client.ExecIO{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return nil, failure(err)
	}
	return &proto.ExecTaskResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Result: exitResult(e)}, nil
}

// ExecTaskStreaming runs a command with its streams, in a terminal if wanted.
func (d *Driver) ExecTaskStreaming(stream proto.Driver_ExecTaskStreamingServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	setup := first.Setup
	if setup == nil {
		return status.Error(codes.InvalidArgument, "exec: the first message is not a setup")
	}
	stdin, input := io.Pipe()
	resize := make(chan client.WindowSize)
	noInput := make(chan struct{})
	go receive(stream, input, resize, noInput)
	stdout, stderr := execOutput{stream, false}, execOutput{stream, true}
	e, err := d.exec(stream.Context(), setup.TaskId, client.ExecSpec{Args: setup.Command, TTY: setup.Tty},
		client.ExecIO{Stdin: stdin, Stdout: stdout, Stderr: stderr, Resize: resize})
	stdin.Close()
	var ce *client.Error
	if errors.As(err, &ce) && ce.Code == client.CodeInvalid {
		if _, err := printable.Fprintln(stderr, ce); err != nil {
			return err
		}
		e, err = &client.Exit{Known: true, Code: cmp.Or(ce.Exit, notFound)}, nil
	}
	if err != nil {
		return failure(err)
	}
	err = errors.Join(stdout.close(), stderr.close(),
		stream.Send(&proto.ExecTaskStreamingResponse{Exited: true, Result: exitResult(e)}))
	if err == nil {
		linger(stream.Context(), noInput)
	}
	return err
}

// lingering is long enough for an agent under load to read what was sent to it.
const lingering = 2 * time.Second

// linger waits until no input is to come, for an agent whose input meets the end
// of the stream forgets what it has not read yet, the exit code: in
// ExecTaskStreamingRaw of plugins/drivers/client.go of Nomad 1.6.3 the EOF of its
// Send comes before what Recv would return. Who has the exit code does not wait.
func linger(ctx context.Context, noInput <-chan struct{}) {
	t := time.NewTimer(lingering)
	defer t.Stop()
	select {
	case <-noInput:
	case <-ctx.Done():
	case <-t.C:
	}
}

func (d *Driver) exec(ctx context.Context, taskID string, spec client.ExecSpec,
	xio client.ExecIO) (*client.Exit, error) {
	if len(spec.Args) == 0 {
		return nil, client.Errorf(client.CodeInvalid, "exec: no command given")
	}
	return d.daemon().Exec(ctx, daemonID(taskID), spec, xio)
}

// receive takes the agent's messages apart until the stream ends. The end of
// the messages is not that of the input, which is told by a message of its own;
// after either noInput is closed.
func receive(stream proto.Driver_ExecTaskStreamingServer, input *io.PipeWriter, resize chan<- client.WindowSize,
	noInput chan<- struct{}) {
	var once sync.Once
	end := func() { once.Do(func() { close(noInput) }) }
	defer end()
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		if s := m.TtySize; s != nil {
			select {
			case resize <- client.WindowSize{Rows: int(s.Height), Cols: int(s.Width)}:
			case <-stream.Context().Done():
				return
			}
		}
		if m.Stdin == nil {
			continue
		}
		_, _ = input.Write(m.Stdin.Data) // it fails when the command is over or reads no more; sizes may still come
		if m.Stdin.Close {
			input.Close()
			end()
		}
	}
}

// execOutput is one of a command's two outputs on the way to the agent.
type execOutput struct {
	stream proto.Driver_ExecTaskStreamingServer
	stderr bool
}

func (o execOutput) Write(p []byte) (int, error) {
	return len(p), o.send(&proto.ExecTaskStreamingIOOperation{Data: p})
}

func (o execOutput) close() error { return o.send(&proto.ExecTaskStreamingIOOperation{Close: true}) }

func (o execOutput) send(op *proto.ExecTaskStreamingIOOperation) error {
	if o.stderr {
		return o.stream.Send(&proto.ExecTaskStreamingResponse{Stderr: op})
	}
	return o.stream.Send(&proto.ExecTaskStreamingResponse{Stdout: op})
}
