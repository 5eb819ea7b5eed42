package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// listenFD names the environment variable that carries the listening socket
// over an upgrade, so that no client is turned away.
const listenFD = "FREEJAIL_LISTEN_FD"

// serve answers on the socket until ctx ends.
func (d *Daemon) serve(ctx context.Context) error {
	l, err := d.listen()
	if err != nil {
		return err
	}
	d.listener = l
	srv := &http.Server{Handler: d.routes(), ReadHeaderTimeout: 10 * time.Second,
		ConnContext: d.withPeer}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	d.log.Info("freejail daemon", "version", d.version, "socket", d.cfg.Socket, "state", d.cfg.StateDir, "tasks", len(d.tasks))
	for {
		select {
		case err := <-served:
			return err
		case <-hup:
			if err := d.Upgrade(""); err != nil {
				d.log.Error("no upgrade", "error", err)
			}
		case <-ctx.Done():
			return srv.Close()
		}
	}
}

func (d *Daemon) listen() (net.Listener, error) {
	if s := os.Getenv(listenFD); s != "" {
		if err := os.Unsetenv(listenFD); err != nil {
			return nil, err
		}
		fd, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", listenFD, err)
		}
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		l, err := net.FileListener(f)
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(true) // as one that was not inherited
		}
		return l, err
	}
	if err := os.MkdirAll(filepath.Dir(d.cfg.Socket), 0o755); err != nil {
		return nil, err
	}
	// The state directory's lock is ours: whatever lies here is stale, or
	// belongs to a daemon of another state directory, which is not ours to take.
	if c, err := net.Dial("unix", d.cfg.Socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("another freejail daemon listens on %s: choose another socket", d.cfg.Socket)
	}
	if err := os.Remove(d.cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", d.cfg.Socket)
}

func (d *Daemon) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/info", answer(func(*http.Request) (any, error) { return d.info(), nil }))
	m.HandleFunc("POST /v1/tasks", d.handleStart)
	m.HandleFunc("GET /v1/tasks", answer(func(*http.Request) (any, error) { return d.taskInfos(), nil }))
	m.HandleFunc("GET /v1/tasks/{id}", answer(d.handleTask))
	m.HandleFunc("GET /v1/tasks/{id}/wait", answer(d.handleWait))
	m.HandleFunc("POST /v1/tasks/{id}/signal", answer(d.handleSignal))
	m.HandleFunc("POST /v1/tasks/{id}/stop", answer(d.handleStop))
	m.HandleFunc("DELETE /v1/tasks/{id}", answer(d.handleDestroy))
	m.HandleFunc("GET /v1/tasks/{id}/stats", answer(func(r *http.Request) (any, error) { return d.taskUsage(r.PathValue("id")) }))
	m.HandleFunc("GET /v1/stats", answer(func(*http.Request) (any, error) { return d.allUsage() }))
	m.HandleFunc("POST /v1/tasks/{id}/exec", d.handleExec)
	m.HandleFunc("GET /v1/tasks/{id}/logs", d.handleLogs)
	m.HandleFunc("GET /v1/events", d.handleEvents)
	m.HandleFunc("GET /v1/images", answer(func(r *http.Request) (any, error) { return d.imageInfos(r.Context()) }))
	m.HandleFunc("POST /v1/images", d.handleImport)
	m.HandleFunc("POST /v1/images/pull", d.handlePull)
	m.HandleFunc("GET /v1/image", answer(d.handleImage))
	m.HandleFunc("DELETE /v1/image", answer(func(r *http.Request) (any, error) { return nil, d.images.Remove(r.FormValue("ref")) }))
	m.HandleFunc("GET /v1/exports", answer(func(*http.Request) (any, error) { return d.exportInfos() }))
	m.HandleFunc("POST /v1/exports", answer(d.handleExport))
	m.HandleFunc("DELETE /v1/exports", answer(d.handleUnexport))
	m.HandleFunc("POST /v1/gc", answer(d.handleGC))
	m.HandleFunc("POST /v1/policy/check", answer(d.handleCheck))
	m.HandleFunc("POST /v1/policy/approvals", answer(d.handleApprove))
	m.HandleFunc("GET /v1/policy/approvals", answer(func(*http.Request) (any, error) { return d.listApprovals() }))
	m.HandleFunc("GET /v1/policy/log", answer(func(*http.Request) (any, error) { return d.approvalLog() }))
	m.HandleFunc("DELETE /v1/policy/approvals", answer(d.handleRevoke))
	m.HandleFunc("GET /v1/devfs", answer(func(*http.Request) (any, error) { return d.rulesetInfos(), nil }))
	m.HandleFunc("GET /v1/devfs/explain", answer(d.handleExplain))
	m.HandleFunc("GET /v1/metrics", d.handleMetrics)
	m.HandleFunc("GET /v1/doctor", answer(func(r *http.Request) (any, error) { return d.doctor(r.Context()), nil }))
	m.HandleFunc("POST /v1/reload", answer(func(*http.Request) (any, error) { return nil, d.reloadPolicy() }))
	m.HandleFunc("POST /v1/upgrade", d.handleUpgrade)
	return hostOnly(m)
}

func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		switch {
		case err != nil:
			writeError(w, err)
		case v == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v) // the client went away: nobody to tell
		}
	}
}

var statusOf = map[string]int{client.CodeInvalid: 400, client.CodeRefused: 403, client.CodeNotFound: 404,
	client.CodeConflict: 409, client.CodeUnavailable: 503, client.CodeUpgrading: 503, client.CodeInternal: 500}

func writeError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	e := asError(err)
	w.WriteHeader(statusOf[e.Code])
	_ = json.NewEncoder(w).Encode(e) // the client went away: nobody to tell
}

func asError(err error) *client.Error {
	var e *client.Error
	if errors.As(err, &e) {
		return e
	}
	return client.Errorf(client.CodeInternal, "%v", err)
}

func decode(r *http.Request, v any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, 8<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return invalid("the request cannot be read: %v", err)
	}
	return nil
}

func (d *Daemon) handleStart(w http.ResponseWriter, r *http.Request) {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		writeError(w, err)
		return
	}
	d.asWork(w, r, func(r *http.Request, job *work) {
		answer(func(r *http.Request) (any, error) { return d.start(r.Context(), job, spec) })(w, r)
	})
}

func (d *Daemon) taskInfos() []client.Task {
	out := []client.Task{}
	for _, t := range d.list() {
		out = append(out, d.withHealth(d.withServices(t.snapshot())))
	}
	return out
}

func (d *Daemon) handleTask(r *http.Request) (any, error) {
	t, err := d.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return d.withHealth(d.withServices(t.snapshot())), nil
}

func (d *Daemon) handleWait(r *http.Request) (any, error) {
	t, err := d.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return t.over(r.Context())
}

func (d *Daemon) handleSignal(r *http.Request) (any, error) {
	var in struct {
		Signal string `json:"signal"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	sig, err := parseSignal(in.Signal)
	if err != nil {
		return nil, err
	}
	t, err := d.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	info := t.snapshot()
	switch info.State {
	case client.Exited:
		return nil, client.Errorf(client.CodeConflict, "task %s has ended", t.id())
	case client.Starting:
		return nil, client.Errorf(client.CodeConflict, "task %s is still starting: there is no process to signal", t.id())
	}
	return nil, d.jails.Signal(info.Jail, target(info), sig)
}

func (d *Daemon) handleStop(r *http.Request) (any, error) {
	var in client.StopRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return d.Stop(r.Context(), r.PathValue("id"), in)
}

func (d *Daemon) handleDestroy(r *http.Request) (any, error) {
	return nil, d.Destroy(r.Context(), r.PathValue("id"), r.FormValue("force") == "true")
}

func (d *Daemon) handleEvents(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil {
		writeError(w, invalid("after: %v", err))
		return
	}
	enc := json.NewEncoder(w)
	for {
		events, more := d.events.since(after)
		for _, e := range events {
			if enc.Encode(e) != nil {
				return
			}
			after = e.Seq
		}
		if r.FormValue("follow") != "true" {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}
