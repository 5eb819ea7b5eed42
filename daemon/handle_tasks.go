package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/works"
)

// whenRecovered is for what needs the state of the tasks. What else is asked is
// answered at once.
func (d *Daemon) whenRecovered(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := d.tasks.AwaitRecovery(r.Context()); err != nil {
			writeError(w, err)
			return
		}
		h(w, r)
	}
}

func (d *Daemon) handleStart(w http.ResponseWriter, r *http.Request) {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		writeError(w, err)
		return
	}
	d.asWork(w, r, func(r *http.Request, job *works.Work) {
		answer(func(r *http.Request) (any, error) { return d.tasks.Start(r.Context(), job, spec) })(w, r)
	})
}

// answerTime is how long a client has to take an answer that others wait for.
const answerTime = 5 * time.Second

// asWork answers a request, whose body was read, with what takes its time.
func (d *Daemon) asWork(w http.ResponseWriter, r *http.Request, f func(*http.Request, *works.Work)) {
	ctx, job, err := d.works.Begin(r.Context())
	if err != nil {
		writeError(w, err)
		return
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
}

// handleTasks waits for the recovery, or tells now what is not recovered yet.
func (d *Daemon) handleTasks(r *http.Request) (any, error) {
	if param(r, "now") != "true" {
		if err := d.tasks.AwaitRecovery(r.Context()); err != nil {
			return nil, err
		}
	}
	return d.tasks.Tasks(), nil
}

func (d *Daemon) handleSignal(r *http.Request) (any, error) {
	var in struct {
		Signal string `json:"signal"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return nil, d.tasks.Signal(r.PathValue("id"), in.Signal)
}

func (d *Daemon) handleStop(r *http.Request) (any, error) {
	var in client.StopRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return d.tasks.Stop(r.Context(), r.PathValue("id"), in)
}

// handleCheck decides about a whole task as its start would.
func (d *Daemon) handleCheck(r *http.Request) (any, error) {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		return nil, err
	}
	s, dec, err := d.tasks.Check(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	return wireDecision(s, dec), nil
}

func (d *Daemon) handleShutdown(r *http.Request) (any, error) {
	var in client.ShutdownRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Limit < 0 {
		return nil, client.Invalid("limit %s is below zero", time.Duration(in.Limit))
	}
	// Who asked may go away: a shutdown that began is not for half of the tasks.
	return d.tasks.Shutdown(context.WithoutCancel(r.Context()), time.Duration(in.Limit)), nil
}

// handleExec switches the connection to the exec stream when the command has begun.
func (d *Daemon) handleExec(w http.ResponseWriter, r *http.Request) {
	var spec client.ExecSpec
	err := decode(r, &spec)
	if err == nil && r.Header.Get("Upgrade") != client.ExecProtocol {
		err = client.Invalid("exec wants the header Upgrade: %s", client.ExecProtocol)
	}
	if err == nil {
		err = d.tasks.Exec(r.Context(), r.PathValue("id"), spec, func() (net.Conn, io.Reader, error) {
			conn, in, err := http.NewResponseController(w).Hijack()
			if err == nil { // who is gone by now is found out by reading
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", client.ExecProtocol)
			}
			return conn, in, err
		})
	}
	if err != nil {
		writeError(w, err)
	}
}

func (d *Daemon) handleLogs(w http.ResponseWriter, r *http.Request) {
	tail, err := strconv.Atoi(param(r, "tail"))
	if err != nil {
		writeError(w, client.Invalid("tail: %v", err))
		return
	}
	log, err := d.tasks.Logs(r.PathValue("id"), param(r, "stream"))
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	err = log.Copy(r.Context(), logWriter{w}, tail, param(r, "follow") == "true")
	if err != nil && r.Context().Err() == nil {
		d.log.Warn("logs", "task", r.PathValue("id"), "error", err)
	}
}

// logWriter is an answer that is a log.
type logWriter struct{ http.ResponseWriter }

func (w logWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

func (w logWriter) Start(offset int64) {
	w.Header().Set(client.LogStart, strconv.FormatInt(offset, 10))
}
