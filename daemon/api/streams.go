package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/works"
)

func (b Backend) start(w http.ResponseWriter, r *http.Request) error {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		return err
	}
	p := peerOf(r)
	if err := ofOperator(p, spec); err != nil {
		return err
	}
	if spec.By = ""; spec.Owner == "cli" {
		spec.By = p.String()
	}
	return b.asWork(w, r, func(r *http.Request, job *works.Work) {
		start := b.Tasks.Start
		if param(r, "again") == "true" {
			start = b.Tasks.StartAgain
		}
		answer(func(r *http.Request) (*client.Task, error) { return start(r.Context(), job, spec) })(w, r)
	})
}

// answerTime is how long a client has to take an answer that others wait for.
const answerTime = 5 * time.Second

// asWork answers a request, whose body was read, with what takes its time.
func (b Backend) asWork(w http.ResponseWriter, r *http.Request, f func(*http.Request, *works.Work)) error {
	ctx, job, err := b.Works.Begin(r.Context())
	if err != nil {
		return err
	}
	defer job.End()
	out := http.NewResponseController(w)
	stop := context.AfterFunc(ctx, func() {
		_ = out.SetWriteDeadline(time.Now().Add(answerTime)) // of a closed connection there is none
	})
	f(r.WithContext(ctx), job)
	_ = out.Flush() // who asked may be gone
	if !stop() {
		_ = out.SetWriteDeadline(time.Time{})
	}
	return nil
}

// tasks waits for the recovery, or tells now what is not recovered yet.
func (b Backend) tasks(r *http.Request) ([]client.Task, error) {
	if param(r, "now") != "true" {
		if err := b.Tasks.AwaitRecovery(r.Context()); err != nil {
			return nil, err
		}
	}
	return b.Tasks.Tasks(), nil
}

func (b Backend) signal(r *http.Request) error {
	var in struct {
		Signal string `json:"signal"`
	}
	if err := decode(r, &in); err != nil {
		return err
	}
	return b.Tasks.Signal(r.PathValue("id"), in.Signal)
}

func (b Backend) stop(r *http.Request) (*client.Exit, error) {
	var in client.StopRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return b.Tasks.Stop(r.Context(), r.PathValue("id"), in)
}

// destroy is answered late only where it is for a task that runs.
func (b Backend) destroy(r *http.Request) error {
	force := param(r, "force") == "true"
	if force { // it may have to end first
		defer deferred(r)()
	}
	return b.Tasks.Destroy(r.Context(), r.PathValue("id"), force)
}

// switching is the answer after which a connection is an exec stream.
const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" +
	"Upgrade: " + client.ExecProtocol + "\r\n\r\n"

// exec switches the connection to the exec stream when the command has begun.
func (b Backend) exec(w http.ResponseWriter, r *http.Request) error {
	var spec client.ExecSpec
	if err := decode(r, &spec); err != nil {
		return err
	}
	connect, err := switched(w, r)
	if err != nil {
		return err
	}
	return b.Tasks.Exec(r.Context(), r.PathValue("id"), spec, connect)
}

// copy switches the connection to the stream of an archive.
func (b Backend) copy(w http.ResponseWriter, r *http.Request) error {
	var spec client.CopySpec
	if err := decode(r, &spec); err != nil {
		return err
	}
	connect, err := switched(w, r)
	if err != nil {
		return err
	}
	p := peerOf(r)
	by := task.Copier{Name: p.String(), UID: p.uid, Root: !p.operator}
	return b.Tasks.Copy(r.Context(), r.PathValue("id"), spec, by, connect)
}

// attach switches the connection to the stream of a task's input.
func (b Backend) attach(w http.ResponseWriter, r *http.Request) error {
	var none struct{}
	if err := decode(r, &none); err != nil {
		return err
	}
	connect, err := switched(w, r)
	if err != nil {
		return err
	}
	return b.Tasks.Attach(r.PathValue("id"), connect)
}

// switched returns what makes a request's connection a stream of frames.
func switched(w http.ResponseWriter, r *http.Request) (func() (net.Conn, io.Reader, error), error) {
	if r.Header.Get("Upgrade") != client.ExecProtocol {
		return nil, client.Invalid("%s needs the header Upgrade: %s", r.URL.Path, client.ExecProtocol)
	}
	return func() (net.Conn, io.Reader, error) {
		conn, in, err := http.NewResponseController(w).Hijack()
		if err == nil { // who is gone by now is found out by reading
			_, _ = io.WriteString(conn, switching)
		}
		return conn, in, err
	}, nil
}

// traceRest is how long after a trace's time the rest of it can still be told.
const traceRest = time.Minute

// trace answers with a line of JSON for everything that is told of a trace. What is refused is no trace, but an
// error.
func (b Backend) trace(w http.ResponseWriter, r *http.Request) error {
	var spec client.TraceSpec
	if err := decode(r, &spec); err != nil {
		return err
	}
	p := peerOf(r)
	return b.asWork(w, r, func(r *http.Request, _ *works.Work) {
		try(func(w http.ResponseWriter, r *http.Request) error {
			enc, begun, out := json.NewEncoder(w), false, http.NewResponseController(w)
			defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // of a closed connection there is none
			tell := func(e client.TraceEvent) error {
				begun = true
				if e.Began != nil { // who reads slowly keeps others from tracing
					_ = out.SetWriteDeadline(time.Now().Add(time.Duration(e.Began.Limit) + traceRest))
				}
				if err := enc.Encode(e); err != nil {
					return err
				}
				return out.Flush()
			}
			err := b.Tasks.Trace(r.Context(), r.PathValue("id"), spec, p.whom(), tell)
			if err = works.Ended(r.Context(), err); err != nil && begun {
				err = tell(client.TraceEvent{Error: client.AsError(err)})
			}
			if !begun {
				return err
			}
			return nil // who asked may be gone
		})(w, r)
	})
}

func (b Backend) logs(w http.ResponseWriter, r *http.Request) error {
	tail, err := strconv.Atoi(param(r, "tail"))
	if err != nil {
		return client.Invalid("tail: %v", err)
	}
	log, err := b.Tasks.Logs(r.PathValue("id"), param(r, "stream"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	follow := param(r, "follow") == "true"
	if follow {
		defer deferred(r)()
	}
	err = log.Copy(r.Context(), logWriter{w}, tail, follow)
	if err != nil && r.Context().Err() == nil {
		b.Log.Warn("logs", "task", r.PathValue("id"), "error", err)
	}
	return nil
}

// logWriter is an answer that is a log.
type logWriter struct{ http.ResponseWriter }

func (w logWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

func (w logWriter) Start(offset int64) {
	w.Header().Set(client.LogStart, strconv.FormatInt(offset, 10))
}

func (b Backend) events(w http.ResponseWriter, r *http.Request) error {
	after, err := strconv.ParseUint(param(r, "after"), 10, 64)
	if err != nil {
		return client.Invalid("after: %v", err)
	}
	after = b.Events.From(after)
	enc := json.NewEncoder(w)
	if param(r, "follow") == "true" {
		defer deferred(r)()
	}
	for {
		events, more := b.Events.Since(after)
		for _, e := range events {
			if enc.Encode(e) != nil {
				return nil // who asked is gone
			}
			after = e.Seq
		}
		if param(r, "follow") != "true" {
			return nil
		}
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return nil
		}
	}
}

// ends tells which tasks are over from when its answer begins, until more of them are not taken than are kept.
func (b Backend) ends(w http.ResponseWriter, r *http.Request) {
	ended, stop := b.Tasks.Ends()
	defer stop()
	defer deferred(r)()
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(w)
	for {
		w.(http.Flusher).Flush()
		select {
		case e, more := <-ended:
			if !more || enc.Encode(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// upgrade answers while there is still a daemon to say no.
func (b Backend) upgrade(w http.ResponseWriter, r *http.Request) error {
	var in client.UpgradeRequest
	if err := decode(r, &in); err != nil {
		return err
	}
	binary, err := b.Host.CheckUpgrade(in)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]bool{"upgrading": true}) // the client may be gone
	w.(http.Flusher).Flush()
	go func() {
		if err := b.Host.Replace(binary); err != nil {
			b.Log.Error("no upgrade", "error", err)
		}
	}()
	return nil
}

// fetching answers with a line of JSON for every step of what gets images, the
// last of them with the result or the error.
func fetching[In, Out any](b Backend,
	find func(In) (func(context.Context, func(client.ImageProgress)) (Out, error), error),
	end func(Out) client.ImageProgress) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := decode(r, &in); err != nil {
			return err
		}
		get, err := find(in)
		if err != nil {
			return err
		}
		return b.asWork(w, r, func(r *http.Request, _ *works.Work) {
			out := tellProgress(w)
			got, err := get(r.Context(), out.tell)
			last := end(got)
			if err != nil {
				last = client.ImageProgress{Error: client.AsError(works.Ended(r.Context(), err))}
			}
			out.end(r.Context(), last)
		})
	})
}

// progressTime is how long a client has to take what is not sent yet when all is done.
const progressTime = time.Minute

// progressLines sends progress ten times a second, by a goroutine of its own: what is done waits for no client, as
// others wait for that. One who reads slowly is told of less.
type progressLines struct {
	w     http.ResponseWriter
	next  chan client.ImageProgress
	over  chan struct{}
	ended chan struct{} // closed when nothing more is sent
}

func tellProgress(w http.ResponseWriter) *progressLines {
	l := &progressLines{w: w, next: make(chan client.ImageProgress), over: make(chan struct{}),
		ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for {
			select {
			case p := <-l.next:
				l.send(p)
			case <-l.over:
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-l.over:
				return
			}
		}
	}()
	return l
}

func (l *progressLines) tell(p client.ImageProgress) {
	select {
	case l.next <- p:
	default:
	}
}

// end sends the last line.
func (l *progressLines) end(ctx context.Context, last client.ImageProgress) {
	if ctx.Err() == nil { // else it has less time already
		_ = http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(progressTime)) // as in send
	}
	close(l.over)
	<-l.ended
	l.send(last)
}

func (l *progressLines) send(p client.ImageProgress) {
	_ = json.NewEncoder(l.w).Encode(p) // who asked may be gone, which ends the request
	l.w.(http.Flusher).Flush()
}
