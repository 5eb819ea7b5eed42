package task

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/internal/ktrace"
	"github.com/freejail/freejail/internal/places"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/policy"
)

// Operator is a user of the host who does something with a task.
type Operator struct {
	User string // the name, or the number where it has none
	UID  int
	Text string // for the record
	Root bool   // as the daemon is
}

// traces are those under way: each has a file, and slows down what it traces.
var traces = places.Places{Most: 4}

// traced are the tasks that are traced, by key.
type traced struct {
	mu    sync.Mutex
	tasks map[string]bool
}

// traceDTrace is the sort of traces that a script makes.
const traceDTrace = "dtrace"

// Trace shows an operator what the processes of a task do, where the policy permits that. What is refused is
// told as an event too.
func (m *Manager) Trace(ctx context.Context, id string, spec client.TraceSpec, by Operator,
	tell func(client.TraceEvent) error) error {
	t, err := m.find(id)
	if err != nil {
		return err
	}
	if err := checkTrace(&spec); err != nil {
		return err
	}
	info := t.snapshot()
	if info.State != client.Running {
		return client.Conflict("task %s is not running (%s)", id, info.State)
	}
	if err := m.mayTrace(t, spec, by); err != nil {
		if client.IsRefused(err) {
			m.tell(t, "trace", "a trace is refused to "+by.Text)
		}
		return err
	}
	end, err := m.traced.begin(t.key(), by)
	if err != nil {
		return err
	}
	defer end()
	return m.trace(ctx, t, spec, by, tell)
}

// checkTrace fills in what is not said.
func checkTrace(s *client.TraceSpec) error {
	if s.Limit == 0 {
		s.Limit = client.Duration(client.DefaultTraceLimit)
	}
	if s.Size == 0 {
		s.Size = client.DefaultTraceSize
	}
	scripted := s.What == traceDTrace
	switch limit := time.Duration(s.Limit); {
	case !scripted && ktrace.What(s.What).Points() == 0:
		return client.Invalid("trace: %q is not syscalls, files, net or dtrace", s.What)
	case scripted != (s.Ready+s.Script != "") || s.Ready != "" && s.Script != "":
		return client.Invalid("trace: dtrace, and nothing else, needs a script: its text, or the name of one")
	case len(s.Script) > client.MaxTraceScript:
		return client.Invalid("trace: the script has more than %d bytes", client.MaxTraceScript)
	case limit < time.Second || limit > client.MaxTraceLimit:
		return client.Invalid("trace: a time of %s is not from 1s to %s", limit, client.MaxTraceLimit)
	case s.Size < client.MinTraceSize || s.Size > client.MaxTraceSize:
		return client.Invalid("trace: a size of %d bytes is not from %s to %s", s.Size,
			units.BytesSize(client.MinTraceSize), units.BytesSize(client.MaxTraceSize))
	}
	return nil
}

// mayTrace asks the policy. A script of one's own sees all of the host, whatever it says of jails.
func (m *Manager) mayTrace(t *task, spec client.TraceSpec, by Operator) error {
	if spec.Script != "" && !by.Root {
		return client.Refused("only root may trace by a script of one's own, which is not confined to the task, "+
			"not %s; use one that comes with freejail", by.Text)
	}
	info := t.snapshot()
	img, err := t.root.image(info)
	if err != nil {
		return err
	}
	return m.Judge.Decide(info.Spec, img, []policy.Request{TraceRequest(by)})
}

// TraceRequest is what an operator asks for who traces.
func TraceRequest(by Operator) policy.Request {
	from := policy.FromOperator
	if by.Root {
		from = policy.FromHost
	}
	return policy.Request{Privilege: policy.Trace(by.User, by.UID), Source: from}
}

// begin holds a place until the end.
func (l *traced) begin(key string, by Operator) (end func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tasks[key] {
		return nil, client.Conflict("the task is traced already")
	}
	release, err := traces.Take(by.UID, by.Root)
	if err != nil {
		return nil, client.Conflict("trace: %v", err)
	}
	if l.tasks == nil {
		l.tasks = map[string]bool{}
	}
	l.tasks[key] = true
	return func() {
		release()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.tasks, key)
	}, nil
}

func (m *Manager) trace(ctx context.Context, t *task, spec client.TraceSpec, by Operator,
	tell func(client.TraceEvent) error) error {
	began := time.Time{}
	what := jail.Trace{What: ktrace.What(spec.What), Ready: spec.Ready, Script: spec.Script,
		Limit: time.Duration(spec.Limit), Size: spec.Size,
		Line: func(text string) error { return tell(client.TraceEvent{Line: text}) }}
	what.Began = func(n int) error {
		began = time.Now()
		m.tell(t, "trace", "traced by "+by.Text+": "+traceText(spec)+", for "+what.Limit.String()+" and "+
			units.BytesSize(float64(spec.Size))+" at most")
		return tell(client.TraceEvent{Began: &client.TraceBegan{Processes: n, Limit: spec.Limit, Size: spec.Size}})
	}
	end, err := m.Jails.Trace(ctx, t.snapshot().Jail, what)
	err = works.Ended(ctx, err)
	if !began.IsZero() {
		why := end.Why
		if err != nil {
			why = err.Error()
		}
		m.tell(t, "trace", "the trace by "+by.Text+" ended after "+time.Since(began).Round(time.Millisecond).String()+
			": "+why)
	}
	switch {
	case errors.Is(err, jail.ErrNoTracer):
		return client.Unavailable("%v", err)
	case errors.Is(err, jail.ErrNoScript):
		return client.Invalid("%v", err)
	case err != nil:
		return err
	}
	return tell(client.TraceEvent{End: &client.TraceEnd{Why: end.Why, Bytes: end.Bytes}})
}

// traceText is what is seen, for the record.
func traceText(s client.TraceSpec) string {
	switch {
	case s.Ready != "":
		return "dtrace " + s.Ready
	case s.Script != "":
		return "dtrace, by a script"
	}
	return s.What
}
