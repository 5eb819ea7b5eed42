package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/works"
)

type noTasks struct{ Tasks }

// fake has one task, "one", and fails as it is told.
type fake struct {
	noTasks
	Host
	recovering, err error
}

func (f *fake) AwaitRecovery(context.Context) error { return f.recovering }
func (f *fake) Tasks() []client.Task                { return []client.Task{{Key: "one"}} }
func (f *fake) Info() client.Info                   { return client.Info{Version: "test"} }

func (f *fake) Task(string) (client.Task, error) { return client.Task{Key: "one"}, f.err }

func (f *fake) Destroy(context.Context, string, bool) error { return f.err }

func backend(f *fake) Backend {
	return Backend{Log: hclog.NewNullLogger(), Tasks: f, Images: struct{ Images }{}, Policy: struct{ Policy }{},
		Host: f}
}

// An error has the status of its code, and one without a code is an internal one.
func TestErrorsHaveTheirStatus(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{nil, 200, ""},
		{client.Invalid("x"), 400, client.CodeInvalid},
		{client.Refused("x"), 403, client.CodeRefused},
		{client.NotFound("x"), 404, client.CodeNotFound},
		{errors.Join(client.Conflict("x"), errors.New("and more")), 409, client.CodeConflict},
		{client.Unavailable("x"), 503, client.CodeUnavailable},
		{errors.New("x"), 500, client.CodeInternal},
	} {
		w := httptest.NewRecorder()
		Handler(backend(&fake{err: c.err})).ServeHTTP(w, httptest.NewRequest("GET", "/v1/tasks/one", nil))
		var e client.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != c.status || e.Code != c.code {
			t.Errorf("%v: %d %s %v", c.err, w.Code, w.Body, err)
		}
	}
}

// What needs the state of the tasks is held up while it is not known; what the
// daemon is, and which tasks there are now, is told at once.
func TestWhatIsAnsweredDuringARecovery(t *testing.T) {
	h := Handler(backend(&fake{recovering: client.Errorf(client.CodeRecovering, "recovering")}))
	for target, status := range map[string]int{"GET /v1/info": 200, "GET /v1/tasks?now=true": 200, "GET /v1/tasks": 503,
		"GET /v1/tasks/one": 503, "DELETE /v1/tasks/one?force=true": 503} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != status {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

// A request that comes from no socket has no peer, and is refused.
func TestOnlyTheHostsRootIsAnswered(t *testing.T) {
	w := httptest.NewRecorder()
	hostOnly(Handler(backend(&fake{})), hclog.NewNullLogger()).ServeHTTP(w, httptest.NewRequest("GET", "/v1/info", nil))
	if w.Code != 403 || w.Header().Get("Connection") != "close" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// The socket is left to the program that takes the daemon's place, and no client
// finds it closed.
func TestTheSocketIsKept(t *testing.T) {
	dir, err := os.MkdirTemp("", "api") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	old, err := Serve(socket, nil, backend(&fake{}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Serve(socket, nil, backend(&fake{}))
	if err == nil || !strings.Contains(err.Error(), "another freejail daemon listens on") {
		t.Errorf("a second one: %v", err)
	}
	err = old.Keep(func(env []string) error {
		name, fd, _ := strings.Cut(env[len(env)-1], "=")
		t.Setenv(name, fd)
		next, err := Serve(socket, nil, backend(&fake{}))
		if err != nil {
			return err
		}
		old.listener.SetUnlinkOnClose(false) // as an exec closes it
		if err := old.Close(); err != nil {
			return err
		}
		if info, err := client.New(socket).Info(t.Context()); err != nil || info.Version != "test" {
			t.Errorf("the next one: %+v %v", info, err)
		}
		return next.Close()
	})
	if err != nil {
		t.Error(err)
	}
	if os.Getenv(listenFD) != "" {
		t.Error("tasks would inherit the socket's number")
	}
}

// longTrace is one that is told until its reader does not read, or is gone.
type longTrace struct{ *fake }

func (longTrace) Trace(_ context.Context, _ string, _ client.TraceSpec, _ task.Operator,
	tell func(client.TraceEvent) error) error {
	past := client.Duration(100*time.Millisecond - traceRest)
	err := tell(client.TraceEvent{Began: &client.TraceBegan{Limit: past}})
	for err == nil {
		err = tell(client.TraceEvent{Line: strings.Repeat("x", 1<<16)})
	}
	return err
}

// Who does not read keeps a trace for no longer than its time and a minute.
func TestUnreadTracesEnd(t *testing.T) {
	b := backend(&fake{})
	b.Tasks, b.Works = longTrace{&fake{}}, &works.Works{}
	ended := make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Handler(b).ServeHTTP(w, r)
		close(ended)
	}))
	defer s.Close()
	resp, err := http.Post(s.URL+"/v1/tasks/one/trace", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-ended
}
