package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
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
	"github.com/freejail/freejail/internal/pace"
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
	err = old.Keep(nil, func(env []string) error {
		name, fd, _ := strings.Cut(env[len(env)-1], "=")
		t.Setenv(name, fd)
		next, err := Serve(socket, nil, backend(&fake{}))
		if err != nil {
			return err
		}
		old.door.SetUnlinkOnClose(false) // as an exec closes it
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

// talkative pulls an image of which there is much to tell, and tells when it was pulled.
type talkative struct {
	Images
	pulled chan struct{}
}

func (i talkative) Pulling(client.PullRequest) (Fetch, error) {
	return func(_ context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error) {
		much := &client.ImageInfo{Name: strings.Repeat("x", 16<<20)}
		for range 3 {
			tell(client.ImageProgress{Image: much})
			time.Sleep(200 * time.Millisecond) // each is sent
		}
		close(i.pulled)
		return client.ImageInfo{}, nil
	}, nil
}

// Who does not read keeps no pull from ending, for whose end others wait.
func TestUnreadProgress(t *testing.T) {
	b, pulled := backend(&fake{}), make(chan struct{})
	b.Images, b.Works = talkative{pulled: pulled}, &works.Works{}
	s := httptest.NewServer(Handler(b))
	defer s.Close()
	resp, err := http.Post(s.URL+"/v1/images/pull", "application/json", strings.NewReader(`{"ref": "x"}`))
	if err != nil {
		t.Fatal(err)
	}
	<-pulled
	resp.Body.Close()
}

// endless is an image without an end, and tells why its archive ended.
type endless struct {
	Images
	ended chan error
}

func (i endless) Save(ctx context.Context, _ client.SaveRequest,
	begin func() (io.Writer, func(string), error)) error {
	to, _, err := begin()
	for err == nil {
		_, err = to.Write(make([]byte, 16<<10))
	}
	i.ended <- context.Cause(ctx)
	return err
}

// Who reads an archive slowly keeps its save no longer than it takes at the rate that a client has at least.
func TestSlowReaderOfASave(t *testing.T) {
	defer func(was pace.Rate) { task.ClientRate = was }(task.ClientRate)
	task.ClientRate = pace.Rate{Pause: 500 * time.Millisecond, Bytes: 1 << 30}
	b, ended := backend(&fake{}), make(chan error, 1)
	b.Images, b.Works = endless{ended: ended}, &works.Works{}
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handler(b)}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	slow := slowly(20 * time.Millisecond)
	err = client.New(l.Addr().String()).Save(t.Context(), client.SaveRequest{Images: []string{"x"}}, slow, nil)
	if why := <-ended; err == nil || why == nil || !strings.Contains(why.Error(), "less than 1048576 KiB a second") {
		t.Errorf("%v, for %v", err, why)
	}
}

// slowly takes a frame after some time.
type slowly time.Duration

func (s slowly) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(s))
	return len(p), nil
}

// What a work answers is whole when it is over: an upgrade that waited for it cuts nothing off.
func TestAnswersOfWorksAreWhole(t *testing.T) {
	b := backend(&fake{})
	b.Works = &works.Works{}
	for _, failed := range []error{nil, client.Refused("not that")} {
		w := httptest.NewRecorder()
		err := b.asWork(w, httptest.NewRequest(http.MethodPost, "/", nil), func(r *http.Request, _ *works.Work) {
			answer(func(*http.Request) (string, error) { return "done", failed })(w, r)
		})
		if err != nil {
			t.Fatal(err)
		}
		if length := w.Result().ContentLength; length != int64(w.Body.Len()) {
			t.Errorf("%v: an answer of %d bytes tells that it has %d", failed, w.Body.Len(), length)
		}
	}
}
