package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/spans"
	"github.com/freejail/freejail/internal/strictjson"
)

// Handler answers whoever asks: on a socket, Serve admits root of the host alone.
func Handler(b Backend) http.Handler {
	m := http.NewServeMux()
	now := func(pattern string, h http.HandlerFunc, query ...string) { m.HandleFunc(pattern, knownQuery(h, query)) }
	handle := func(pattern string, h http.HandlerFunc, query ...string) { now(pattern, b.whenRecovered(h), query...) }
	b.hostRoutes(now, handle)
	b.taskRoutes(now, handle)
	b.imageRoutes(handle)
	b.policyRoutes(handle)
	return traced(m)
}

// traced has what is done for a request be part of its client's span, where it tells one.
func traced(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Traceparent") != "" {
			r = r.WithContext(spans.Received(r.Context(), r.Header))
		}
		h.ServeHTTP(w, r)
	})
}

// route adds a route with the names of its query.
type route = func(pattern string, h http.HandlerFunc, query ...string)

func (b Backend) hostRoutes(now, handle route) {
	now("GET /v1/info", answer(func(*http.Request) (client.Info, error) { return b.Host.Info(), nil }))
	now("GET /v1/events", try(b.events), "after", "follow")
	now("GET /v1/metrics", func(w http.ResponseWriter, r *http.Request) { b.Host.Metrics().ServeHTTP(w, r) })
	handle("GET /v1/devfs", answer(func(*http.Request) ([]client.Ruleset, error) { return b.Host.RulesetInfos(), nil }))
	handle("GET /v1/networks", answer(func(*http.Request) ([]client.NetworkStatus, error) {
		return b.Host.Networks(), nil
	}))
	handle("GET /v1/devfs/explain", answer(func(r *http.Request) (*client.DevfsView, error) {
		return b.Host.Explain(r.Context(), param(r, "ref"))
	}), "ref")
	handle("GET /v1/doctor", answer(func(r *http.Request) ([]client.Check, error) {
		return b.Host.Doctor(r.Context()), nil
	}))
	handle("POST /v1/reload", answer(func(r *http.Request) (*client.Reloaded, error) {
		return b.Host.Reload(r.Context())
	}))
	handle("POST /v1/upgrade", rootOnly("upgrade the daemon", try(b.upgrade)))
	handle("POST /v1/shutdown", rootOnly("shut the host's tasks down", body(b.Host.Shutdown)))
}

func (b Backend) taskRoutes(now, handle route) {
	t := b.Tasks
	now("GET /v1/tasks", answer(b.tasks), "now")
	handle("POST /v1/tasks", try(b.start), "again")
	handle("GET /v1/tasks/{id}",
		answer(func(r *http.Request) (client.Task, error) { return t.Task(r.PathValue("id")) }))
	handle("GET /v1/tasks/{id}/wait", answer(far(func(r *http.Request) (*client.Exit, error) {
		return t.Wait(r.Context(), r.PathValue("id"))
	})))
	handle("GET /v1/tasks/{id}/over", answer(func(r *http.Request) (*client.Ended, error) {
		exit, err := t.Over(r.PathValue("id"))
		return &client.Ended{ID: r.PathValue("id"), Exit: exit}, err
	}))
	handle("GET /v1/ends", b.ends)
	handle("POST /v1/tasks/{id}/signal", done(b.signal))
	handle("POST /v1/tasks/{id}/stop", answer(far(b.stop)))
	handle("DELETE /v1/tasks/{id}", done(b.destroy), "force")
	handle("GET /v1/tasks/{id}/stats", answer(func(r *http.Request) (any, error) { return t.Usage(r.PathValue("id")) }))
	handle("GET /v1/stats", answer(func(*http.Request) (any, error) { return t.AllUsage() }))
	handle("POST /v1/tasks/{id}/exec", try(b.exec))
	handle("POST /v1/tasks/{id}/copy", try(b.copy))
	handle("POST /v1/tasks/{id}/attach", try(b.attach))
	handle("POST /v1/tasks/{id}/trace", try(b.trace))
	handle("GET /v1/tasks/{id}/logs", try(b.logs), "stream", "tail", "follow")
}

func (b Backend) imageRoutes(handle route) {
	i := b.Images
	handle("GET /v1/images", answer(func(r *http.Request) ([]client.ImageInfo, error) { return i.List(r.Context()) }))
	image := func(i client.ImageInfo) client.ImageProgress { return client.ImageProgress{Image: &i} }
	handle("POST /v1/images", fetching(b, i.Importing, image))
	handle("POST /v1/images/pull", fetching(b, i.Pulling, image))
	handle("POST /v1/images/load", fetching(b, i.Loading, func(l client.LoadResult) client.ImageProgress {
		return client.ImageProgress{Loaded: &l}
	}))
	handle("POST /v1/images/save", try(b.save))
	handle("GET /v1/image", answer(func(r *http.Request) (client.ImageInfo, error) {
		return i.Info(r.Context(), param(r, "ref"))
	}), "ref")
	handle("DELETE /v1/image", answer(func(r *http.Request) (client.Untagged, error) {
		return i.Remove(param(r, "ref"))
	}), "ref")
	handle("POST /v1/images/tag", body(i.Tag))
	handle("GET /v1/exports", answer(func(*http.Request) ([]client.Export, error) { return i.Exports() }))
	handle("POST /v1/exports", rootOnly("export images", body(i.Export)))
	handle("DELETE /v1/exports", rootOnly("change exports", done(func(r *http.Request) error {
		return i.Unexport(r.Context(), param(r, "ref"))
	})), "ref")
	handle("POST /v1/gc", body(i.GC))
	handle("GET /v1/df", answer(func(r *http.Request) (*client.DiskUse, error) {
		return i.DiskUse(r.Context(), param(r, "only"))
	}), "only")
}

func (b Backend) policyRoutes(handle route) {
	p := b.Policy
	handle("POST /v1/policy/check", answer(func(r *http.Request) (*client.Decision, error) {
		var in client.TaskSpec
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := ofOperator(peerOf(r), in); err != nil {
			return nil, err
		}
		return p.Check(r.Context(), in, param(r, "trace"))
	}), "trace")
	handle("POST /v1/policy/approvals", rootOnly("approve", answer(func(r *http.Request) (*client.Approval, error) {
		var in client.ApproveRequest
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return p.Approve(r.Context(), in, peerOf(r).String())
	})))
	handle("GET /v1/policy/approvals", answer(func(*http.Request) ([]client.Approval, error) { return p.Approvals() }))
	handle("GET /v1/policy/log",
		answer(func(*http.Request) ([]client.ApprovalRecord, error) { return p.ApprovalLog() }))
	revoke := answer(func(r *http.Request) ([]client.Approval, error) {
		return p.Revoke(param(r, "ref"), param(r, "why"), peerOf(r).String())
	})
	handle("DELETE /v1/policy/approvals", rootOnly("revoke approvals", revoke), "ref", "why")
}

// whenRecovered is for what needs the state of the tasks. What else is asked is
// answered at once.
func (b Backend) whenRecovered(h http.HandlerFunc) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		if err := b.Tasks.AwaitRecovery(r.Context()); err != nil {
			return err
		}
		h(w, r)
		return nil
	})
}

// switches are the query parameters that are true or false.
var switches = []string{"force", "follow", "now"}

// knownQuery refuses what a route would pass over in silence.
func knownQuery(h http.HandlerFunc, known []string) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		if err := checkQuery(r.URL.RawQuery, known); err != nil {
			return err
		}
		h(w, r)
		return nil
	})
}

func checkQuery(text string, known []string) error {
	q, err := url.ParseQuery(text)
	if err != nil {
		return client.Invalid("invalid query: %v", err)
	}
	for name, values := range q {
		switch {
		case !slices.Contains(known, name):
			return client.Invalid("unknown query parameter %q: this route has %q", name, known)
		case len(values) > 1:
			return client.Invalid("query parameter %q is given twice", name)
		case slices.Contains(switches, name) && values[0] != "true" && values[0] != "false":
			return client.Invalid("query parameter %s=%q is neither true nor false", name, values[0])
		}
	}
	return nil
}

// param is one of the query's. Of the body, which a form's value could be in,
// nothing is read.
func param(r *http.Request, name string) string { return r.URL.Query().Get(name) }

// try answers with the error of a request of which nothing was answered yet.
func try(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			writeError(w, err)
		}
	}
}

// answer writes what f returns, as JSON.
func answer[Out any](f func(*http.Request) (Out, error)) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		out, err := f(r)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	})
}

// body is answer for what is asked in a request's body.
func body[In, Out any](f func(context.Context, In) (Out, error)) http.HandlerFunc {
	return answer(func(r *http.Request) (out Out, err error) {
		var in In
		if err := decode(r, &in); err != nil {
			return out, err
		}
		return f(r.Context(), in)
	})
}

// done answers that something is done.
func done(f func(*http.Request) error) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		if err := f(r); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// StatusOf has the HTTP status of each code of errors.
var StatusOf = map[string]int{client.CodeInvalid: 400, client.CodeRefused: 403, client.CodeNotFound: 404,
	client.CodeConflict: 409, client.CodeUnavailable: 503, client.CodeUpgrading: 503, client.CodeRecovering: 503,
	client.CodeInternal: 500}

func writeError(w http.ResponseWriter, err error) {
	e := client.AsError(err)
	writeJSON(w, StatusOf[e.Code], e)
}

// writeJSON tells the length too: an answer that is flushed is whole then, whatever becomes of this process.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, fmt.Appendf(nil, "{\"code\": %q, \"message\": %q}",
			client.CodeInternal, err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client went away: nobody to tell
}

// bodyRules bound a request's body.
var bodyRules = strictjson.Rules{Bytes: 8 << 20, Values: 200_000}

// decode reads a request's body, all of it: only then is it known when the client
// goes away.
func decode(r *http.Request, v any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, int64(bodyRules.Bytes)+1))
	if err != nil {
		return client.Invalid("invalid request: %v", err)
	}
	if err := strictjson.Check(b, reflect.TypeOf(v), bodyRules); err != nil {
		return client.Invalid("invalid request: %v", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return client.Invalid("invalid request: %v", err)
	}
	return nil
}
