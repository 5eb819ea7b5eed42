package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/strictjson"
)

// listenFD names the environment variable that carries the listening socket
// over an upgrade, so that no client is turned away.
const listenFD = "FREEJAIL_LISTEN_FD"

// How long a connection may take for a request's header, and be without a
// request: longer than clients keep theirs.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
)

// server answers on the socket.
type server struct {
	d      *Daemon
	http   *http.Server
	hup    chan os.Signal
	served chan error
}

// serve begins to answer.
func (d *Daemon) serve() (*server, error) {
	l, err := d.listen()
	if err != nil {
		return nil, err
	}
	d.listener = l
	s := &server{d: d, hup: make(chan os.Signal, 1), served: make(chan error, 1)}
	s.http = &http.Server{Handler: d.routes(), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, ConnContext: withPeer}
	signal.Notify(s.hup, syscall.SIGHUP)
	go func() { s.served <- s.http.Serve(&door{Listener: l, log: d.log}) }()
	d.log.Info("freejail daemon", "version", d.version, "socket", d.cfg.Socket, "state", d.cfg.StateDir, "tasks", d.info().Tasks)
	return s, nil
}

// run returns when ctx has ended or nothing can be answered any more.
func (s *server) run(ctx context.Context) error {
	defer signal.Stop(s.hup)
	for {
		select {
		case err := <-s.served:
			return err
		case <-s.hup:
			if err := s.d.Upgrade(""); err != nil {
				s.d.log.Error("no upgrade", "error", err)
			}
		case <-ctx.Done():
			return s.http.Close()
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
	now := func(pattern string, h http.HandlerFunc, query ...string) { m.HandleFunc(pattern, knownQuery(h, query)) }
	handle := func(pattern string, h http.HandlerFunc, query ...string) { now(pattern, d.whenRecovered(h), query...) }
	now("GET /v1/info", answer(func(*http.Request) (any, error) { return d.info(), nil }))
	now("GET /v1/tasks", answer(d.handleTasks), "now")
	now("GET /v1/events", d.handleEvents, "after", "follow")
	now("GET /v1/metrics", d.handleMetrics)
	handle("POST /v1/tasks", d.handleStart)
	handle("GET /v1/tasks/{id}", answer(func(r *http.Request) (any, error) { return d.tasks.Task(r.PathValue("id")) }))
	handle("GET /v1/tasks/{id}/wait", answer(func(r *http.Request) (any, error) { return d.tasks.Wait(r.Context(), r.PathValue("id")) }))
	handle("POST /v1/tasks/{id}/signal", answer(d.handleSignal))
	handle("POST /v1/tasks/{id}/stop", answer(d.handleStop))
	handle("DELETE /v1/tasks/{id}", answer(func(r *http.Request) (any, error) {
		return nil, d.tasks.Destroy(r.Context(), r.PathValue("id"), param(r, "force") == "true")
	}), "force")
	handle("GET /v1/tasks/{id}/stats", answer(func(r *http.Request) (any, error) { return d.tasks.Usage(r.PathValue("id")) }))
	handle("GET /v1/stats", answer(func(*http.Request) (any, error) { return d.tasks.AllUsage() }))
	handle("POST /v1/tasks/{id}/exec", d.handleExec)
	handle("GET /v1/tasks/{id}/logs", d.handleLogs, "stream", "tail", "follow")
	handle("GET /v1/images", answer(func(r *http.Request) (any, error) { return d.imageInfos(r.Context()) }))
	handle("POST /v1/images", d.handleImport)
	handle("POST /v1/images/pull", d.handlePull)
	handle("GET /v1/image", answer(d.handleImage), "ref")
	handle("DELETE /v1/image", answer(func(r *http.Request) (any, error) { return nil, d.images.Remove(param(r, "ref")) }), "ref")
	handle("GET /v1/exports", answer(func(*http.Request) (any, error) { return d.exportInfos() }))
	handle("POST /v1/exports", answer(d.handleExport))
	handle("DELETE /v1/exports", answer(d.handleUnexport), "ref")
	handle("POST /v1/gc", answer(d.handleGC))
	handle("POST /v1/policy/check", answer(d.handleCheck))
	handle("POST /v1/policy/approvals", answer(d.handleApprove))
	handle("GET /v1/policy/approvals", answer(func(*http.Request) (any, error) { return d.listApprovals() }))
	handle("GET /v1/policy/log", answer(func(*http.Request) (any, error) { return d.approvalLog() }))
	handle("DELETE /v1/policy/approvals", answer(d.handleRevoke), "ref", "why")
	handle("GET /v1/devfs", answer(func(*http.Request) (any, error) { return d.rulesetInfos(), nil }))
	handle("GET /v1/devfs/explain", answer(d.handleExplain), "ref")
	handle("GET /v1/doctor", answer(func(r *http.Request) (any, error) { return d.doctor(r.Context()), nil }))
	handle("POST /v1/reload", answer(func(*http.Request) (any, error) { return nil, d.follower.Reload() }))
	handle("POST /v1/upgrade", d.handleUpgrade)
	handle("POST /v1/shutdown", answer(d.handleShutdown))
	return hostOnly(m)
}

// switches are the query parameters that are true or false.
var switches = []string{"force", "follow", "now"}

// knownQuery refuses what a route would pass over in silence.
func knownQuery(h http.HandlerFunc, known []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			err = client.Invalid("the query cannot be read: %v", err)
		}
		for name, values := range q {
			switch {
			case !slices.Contains(known, name):
				err = client.Invalid("the query's %q is not known here: there are %q", name, known)
			case len(values) > 1:
				err = client.Invalid("the query has %q twice", name)
			case slices.Contains(switches, name) && values[0] != "true" && values[0] != "false":
				err = client.Invalid("the query's %s=%q is neither true nor false", name, values[0])
			}
		}
		if err != nil {
			writeError(w, err)
			return
		}
		h(w, r)
	}
}

// param is one of the query's. Of the body, which a form's value could be in,
// nothing is read.
func param(r *http.Request, name string) string { return r.URL.Query().Get(name) }

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
	client.CodeConflict: 409, client.CodeUnavailable: 503, client.CodeUpgrading: 503, client.CodeRecovering: 503, client.CodeInternal: 500}

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

// bodyRules bound a request's body.
var bodyRules = strictjson.Rules{Bytes: 8 << 20, Values: 200_000}

// decode reads a request's body, all of it: only then is it known when the client
// goes away.
func decode(r *http.Request, v any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, int64(bodyRules.Bytes)+1))
	if err == nil {
		err = strictjson.Check(b, reflect.TypeOf(v), bodyRules)
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		err = dec.Decode(v)
	}
	if err != nil {
		return client.Invalid("the request cannot be read: %v", err)
	}
	return nil
}

func (d *Daemon) handleEvents(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(param(r, "after"), 10, 64)
	if err != nil {
		writeError(w, client.Invalid("after: %v", err))
		return
	}
	after = d.events.from(after)
	enc := json.NewEncoder(w)
	for {
		events, more := d.events.since(after)
		for _, e := range events {
			if enc.Encode(e) != nil {
				return
			}
			after = e.Seq
		}
		if param(r, "follow") != "true" {
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
