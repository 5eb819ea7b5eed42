package driver

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// A task that ended with the host is no failure of its own: the agent is to start
// it again when the host is back, without spending an attempt of its job's restart
// policy.
//
// While the host goes down its end is kept from the agent. When the host is back
// the agent asks to recover the task. If that fails it destroys the task, waits for
// its server's word on whether the task still belongs here, and starts it anew,
// which counts for nothing (restoreHandle in client/allocrunner/taskrunner); an end
// that is told to it counts.

// hostEnds is what the plugin has to tell of them.
type hostEnds struct {
	mu      sync.Mutex
	held    map[string]held   // by daemon id: whose end is held back
	ended   map[string]string // by allocation and task: how the one before ended
	streams map[*sharedEvents]bool
}

// held is an end that is told when released is closed, which release does.
type held struct {
	released chan struct{}
	release  func()
}

func newHostEnds() *hostEnds {
	return &hostEnds{held: map[string]held{}, ended: map[string]string{}, streams: map[*sharedEvents]bool{}}
}

// sharedEvents is a stream of events that has two senders.
type sharedEvents struct {
	proto.Driver_TaskEventsServer
	mu sync.Mutex
}

func (s *sharedEvents) Send(e *proto.DriverTaskEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Driver_TaskEventsServer.Send(e)
}

func (h *hostEnds) listen(stream proto.Driver_TaskEventsServer) *sharedEvents {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &sharedEvents{Driver_TaskEventsServer: stream}
	h.streams[s] = true
	return s
}

func (h *hostEnds) leave(s *sharedEvents) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

// holdBack returns when an end may be told: when a daemon is there that starts
// tasks, or when the agent wants the task ended. It is true.
func (d *Driver) holdBack(ctx context.Context, id string) bool {
	released := d.host.hold(id).released
	for {
		if info, err := d.daemon().Info(ctx); err == nil && !info.ShutDown {
			return true
		}
		select {
		case <-ctx.Done():
			return true
		case <-released:
			return true
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// hold is of an end that may be released before it comes.
func (h *hostEnds) hold(id string) held {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, is := h.held[id]; !is {
		c := make(chan struct{})
		h.held[id] = held{c, sync.OnceFunc(func() { close(c) })}
	}
	return h.held[id]
}

// forget is for a task that the agent has destroyed.
func (h *hostEnds) forget(id string) {
	h.hold(id).release()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, id)
}

// endedWithHost is an error for a task that is to be started again.
func (d *Driver) endedWithHost(ctx context.Context, cfg *proto.TaskConfig, t *client.Task) error {
	if t.State != client.Exited || t.Exit == nil || !t.Exit.Host {
		return nil
	}
	if info, err := d.daemon().Info(ctx); err != nil || info.ShutDown {
		return nil // it could not be started: its end is held back instead
	}
	why := printable.Flat(t.Exit.Message)
	d.host.mu.Lock()
	d.host.ended[taskKey(cfg)] = why
	d.host.mu.Unlock()
	return status.Errorf(codes.NotFound, "the task ended: %s", why)
}

func taskKey(cfg *proto.TaskConfig) string { return cfg.GetAllocId() + "/" + cfg.GetName() }

// tellRestart has the agent show at a task that is started again how the one before
// ended. Not before: the agent passes on no events of tasks that it is restoring.
func (h *hostEnds) tellRestart(cfg *proto.TaskConfig) {
	h.mu.Lock()
	why, is := h.ended[taskKey(cfg)]
	delete(h.ended, taskKey(cfg))
	var to []*sharedEvents
	for s := range h.streams {
		to = append(to, s)
	}
	h.mu.Unlock()
	for _, s := range to {
		if !is {
			return
		}
		// A stream that has ended has nobody to be told.
		_ = s.Send(&proto.DriverTaskEvent{TaskId: cfg.GetId(), TaskName: cfg.GetName(), AllocId: cfg.GetAllocId(),
			Timestamp: timestamppb.Now(), Message: "started again: " + why,
			Annotations: map[string]string{"kind": "host"}})
	}
}
