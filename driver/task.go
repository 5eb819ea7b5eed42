package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// handleVersion is that of handleState in Nomad's state.
const handleVersion = 1

// handleState is what Nomad keeps for us over restarts. It may not be empty.
type handleState struct {
	DaemonID string
}

// daemonID names a task of Nomad's on the daemon: readable, by the task's name
// in the middle of Nomad's id "ALLOC/TASK/INVOCATION", and unique by a hash.
func daemonID(nomadID string) string {
	name := "task"
	if part := strings.Split(nomadID, "/"); len(part) == 3 {
		name = part[1]
	}
	sum := sha256.Sum256([]byte(nomadID))
	return client.TaskID(name, hex.EncodeToString(sum[:6]))
}

// StartTask starts a task on the daemon.
func (d *Driver) StartTask(ctx context.Context, req *proto.StartTaskRequest) (*proto.StartTaskResponse, error) {
	cfg := req.Task
	ctx, end := d.spans.Begin(ctx, "StartTask", "nomad.namespace", cfg.Namespace, "nomad.job", cfg.JobName,
		"nomad.group", cfg.TaskGroupName, "nomad.task", cfg.Name, "nomad.alloc_id", cfg.AllocId)
	resp, err := d.start(ctx, cfg)
	end(err)
	return resp, err
}

func (d *Driver) start(ctx context.Context, cfg *proto.TaskConfig) (*proto.StartTaskResponse, error) {
	var tc TaskConfig
	if err := base.MsgPackDecode(cfg.GetMsgpackDriverConfig(), &tc); err != nil {
		return nil, fmt.Errorf("task config: %w", err)
	}
	plugin := d.config()
	s, err := spec(cfg, tc)
	if err := errors.Join(tc.validate(plugin), err); err != nil {
		return nil, fmt.Errorf("task config: %w", err)
	}
	plugin.agent(&s)
	var state []byte
	if err := base.MsgPackEncode(&state, handleState{DaemonID: s.ID}); err != nil {
		return nil, err
	}
	info, err := d.ensureDaemon(ctx)
	if err != nil {
		return nil, failure(err)
	}
	if err := checkTo(info, s); err != nil {
		return nil, err
	}
	d.host.tellRestart(cfg)
	t, err := d.daemon().Start(ctx, s)
	if err != nil {
		return nil, failure(err)
	}
	handle := &proto.TaskHandle{Version: handleVersion, Config: cfg, State: proto.TaskState_RUNNING, DriverState: state}
	return &proto.StartTaskResponse{Handle: handle, NetworkOverride: network(t)}, nil
}

// daemonTime is how long a daemon may take to answer; retryEvery is how soon one that
// is away is asked again.
const (
	daemonTime = 30 * time.Second
	retryEvery = 200 * time.Millisecond
)

// awaitDaemon waits for a daemon that is just being started, and for one that
// recovers as long as that takes: a task that is not recovered now would be started
// again beside itself.
func (d *Driver) awaitDaemon(ctx context.Context) error {
	late := time.Now().Add(daemonTime)
	for {
		once, cancel := context.WithTimeout(ctx, daemonTime)
		info, err := d.waitRecovered(once)
		cancel()
		if err == nil && info.Recovering == "" || err != nil && time.Now().After(late) {
			return err
		}
		if !client.Pause(ctx, retryEvery) {
			return ctx.Err()
		}
	}
}

// RecoverTask takes up a task that an earlier plugin process started.
func (d *Driver) RecoverTask(ctx context.Context, req *proto.RecoverTaskRequest) (*proto.RecoverTaskResponse, error) {
	var state handleState
	if err := base.MsgPackDecode(req.GetHandle().GetDriverState(), &state); err != nil {
		return nil, fmt.Errorf("the task's handle: %w", err)
	}
	if want := daemonID(req.GetHandle().GetConfig().GetId()); state.DaemonID != want {
		return nil, status.Errorf(codes.NotFound, "the handle names task %q, not %q", state.DaemonID, want)
	}
	if err := d.awaitDaemon(ctx); err != nil {
		return nil, failure(err)
	}
	ctx, cancel := context.WithTimeout(ctx, daemonTime)
	defer cancel()
	t, err := d.daemon().Task(ctx, state.DaemonID)
	if err != nil {
		return nil, failure(err)
	}
	if err := d.endedWithHost(ctx, req.GetHandle().GetConfig(), t); err != nil {
		return nil, err
	}
	return &proto.RecoverTaskResponse{}, nil
}

// WaitTask tells the task's end once, whatever happens to the daemon
// meanwhile: only its word that the task has ended, or is not known, ends it.
func (d *Driver) WaitTask(ctx context.Context, req *proto.WaitTaskRequest) (*proto.WaitTaskResponse, error) {
	id := daemonID(req.TaskId)
	for {
		e, err := d.ends.wait(ctx, id)
		switch {
		case err == nil && e.Host && d.holdBack(ctx, id) && ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			return &proto.WaitTaskResponse{Result: exitResult(e), Err: exitMessage(e)}, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case client.IsNotFound(err):
			return &proto.WaitTaskResponse{Result: exitResult(nil),
				Err: "the daemon does not know the task: its exit code is unknown"}, nil
		}
		if !client.Pause(ctx, retryEvery) {
			return nil, ctx.Err()
		}
		d.seek(ctx, err)
	}
}

// seek makes sure that there is a daemon again.
func (d *Driver) seek(ctx context.Context, why error) {
	d.log.Debug("waiting for the daemon", "error", why)
	if _, err := d.ensureDaemon(ctx); err != nil {
		d.log.Warn("the daemon is away", "error", err)
	}
}

// exitResult is never nil, as agents take it apart unasked. A code that is
// unknown is -1, not 0.
func exitResult(e *client.Exit) *proto.ExitResult {
	if e == nil || !e.Known {
		return &proto.ExitResult{ExitCode: -1}
	}
	return &proto.ExitResult{ExitCode: int32(e.Code), Signal: int32(e.Signal), OomKilled: e.OOM}
}

// exitMessage says what a code cannot.
func exitMessage(e *client.Exit) string {
	switch {
	case e.Known && e.Disk:
		return "killed: " + e.Message
	case e.Known && e.OOM:
		return "killed: over its memory limit"
	case e.Host:
		return printable.Flat(e.Message)
	case e.Known:
		return ""
	case e.Message != "":
		return "the exit code is unknown: " + printable.Flat(e.Message)
	}
	return "the exit code is unknown"
}

// StopTask sends the signal and kills after the timeout.
func (d *Driver) StopTask(ctx context.Context, req *proto.StopTaskRequest) (*proto.StopTaskResponse, error) {
	d.host.hold(daemonID(req.TaskId)).release()
	how := client.StopRequest{Signal: req.Signal, Timeout: client.Duration(req.Timeout.AsDuration())}
	err := d.retry(ctx, func() error {
		_, err := d.daemon().Stop(ctx, daemonID(req.TaskId), how)
		return err
	})
	if err != nil && !client.IsNotFound(err) {
		return nil, failure(err)
	}
	return &proto.StopTaskResponse{}, nil
}

// retry repeats a call that a restart of the daemon broke.
func (d *Driver) retry(ctx context.Context, call func() error) error {
	var err error
	for range 10 {
		var ce *client.Error
		if err = call(); err == nil || errors.As(err, &ce) || ctx.Err() != nil {
			return err
		}
		if _, derr := d.ensureDaemon(ctx); derr != nil {
			err = errors.Join(err, derr)
		}
		if !client.Pause(ctx, retryEvery) {
			return err
		}
	}
	return err
}

// DestroyTask removes a task; with force also one that runs. One that is not
// there is removed already: agents destroy what they could not recover.
func (d *Driver) DestroyTask(ctx context.Context, req *proto.DestroyTaskRequest) (*proto.DestroyTaskResponse, error) {
	d.host.forget(daemonID(req.TaskId))
	err := d.retry(ctx, func() error { return d.daemon().Destroy(ctx, daemonID(req.TaskId), req.Force) })
	if err != nil && !client.IsNotFound(err) {
		return nil, failure(err)
	}
	return &proto.DestroyTaskResponse{}, nil
}

// InspectTask tells a task's state.
func (d *Driver) InspectTask(ctx context.Context, req *proto.InspectTaskRequest) (*proto.InspectTaskResponse, error) {
	t, err := d.daemon().Task(ctx, daemonID(req.TaskId))
	if err != nil {
		return nil, failure(err)
	}
	s := &proto.TaskStatus{Id: req.TaskId, Name: t.Spec.Labels["task"], State: proto.TaskState_RUNNING,
		StartedAt: timestamppb.New(t.StartedAt), CompletedAt: timestamppb.New(time.Time{}), Result: &proto.ExitResult{}}
	if t.State == client.Exited {
		s.State, s.Result = proto.TaskState_EXITED, exitResult(t.Exit)
		if t.Exit != nil {
			s.CompletedAt = timestamppb.New(t.Exit.At)
		}
	}
	attrs := map[string]string{"pid": strconv.Itoa(t.PID), "jail": t.Jail, "jid": strconv.Itoa(t.JID),
		"image": t.Digest}
	return &proto.InspectTaskResponse{Task: s, Driver: &proto.TaskDriverStatus{Attributes: attrs},
		NetworkOverride: network(t)}, nil
}

// SignalTask sends a signal to the main process.
func (d *Driver) SignalTask(ctx context.Context, req *proto.SignalTaskRequest) (*proto.SignalTaskResponse, error) {
	if err := d.daemon().Signal(ctx, daemonID(req.TaskId), req.Signal); err != nil {
		return nil, failure(err)
	}
	return &proto.SignalTaskResponse{}, nil
}
