package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/api"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
)

// inProcess is a daemon that nobody but the test can ask.
func inProcess(t testing.TB) *Daemon {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "freejail.hcl")
	if err := os.WriteFile(conf, []byte("state_dir = \""+filepath.Join(dir, "state")+"\"\nsocket = \""+
		filepath.Join(dir, "s")+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := host.LoadConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(cfg, "test", hclog.NewNullLogger())
	if err != nil {
		t.Skip(err) // a host without jails
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	// until then requests are held
	if err := errors.Join(d.tasks.Read(t.Context()), d.tasks.Recover(t.Context())); err != nil {
		t.Fatal(err)
	}
	return d
}

// requests are the routes with the fields of their bodies and queries.
var requests = []struct{ method, path, query, body string }{
	{"GET", "/v1/info", "", ""},
	{"POST", "/v1/tasks", "",
		`{"id":"one","owner":"nomad","image":"prog","env":{"A":"b"},"pull_timeout":1000,"ports":{"http":{"port":80}},"volumes":[{"source":"/a","target":"/b"}],"wants":{"allow":["raw_sockets"]},"limits":{"memory_bytes":1},"service":{}}`},
	{"GET", "/v1/tasks", "", ""},
	{"GET", "/v1/tasks/one", "", ""},
	{"GET", "/v1/tasks/one/wait", "", ""},
	{"POST", "/v1/tasks/one/signal", "", `{"signal":"SIGHUP"}`},
	{"POST", "/v1/tasks/one/stop", "", `{"signal":"SIGTERM","timeout":1000}`},
	{"DELETE", "/v1/tasks/one", "force=true", ""},
	{"GET", "/v1/tasks/one/stats", "", ""},
	{"GET", "/v1/stats", "", ""},
	{"POST", "/v1/tasks/one/exec", "", `{"args":["sh"],"tty":true,"rows":24,"cols":80}`},
	{"GET", "/v1/tasks/one/logs", "stream=stdout&tail=-1&follow=false", ""},
	{"GET", "/v1/events", "after=0&follow=false", ""},
	{"GET", "/v1/images", "", ""},
	{"POST", "/v1/images", "", `{"path":"/nothing","name":"x"}`},
	{"POST", "/v1/images/pull", "", `{"ref":"127.0.0.1:1/x","timeout":1}`},
	{"POST", "/v1/images/load", "", `{"path":"/nothing"}`},
	{"POST", "/v1/images/save", "", `{"images":["prog"]}`},
	{"GET", "/v1/image", "ref=prog", ""},
	{"DELETE", "/v1/image", "ref=prog", ""},
	{"GET", "/v1/exports", "", ""},
	{"POST", "/v1/exports", "", `{"image":"prog"}`},
	{"DELETE", "/v1/exports", "ref=prog", ""},
	{"POST", "/v1/gc", "", `{"older":0,"max_size":0}`},
	{"POST", "/v1/policy/check", "", `{"id":"","owner":"cli","image":"prog","wants":{},"limits":{},"service":{}}`},
	{"POST", "/v1/policy/approvals", "", `{"image":"prog","requests":["allow:raw_sockets"],"why":"x"}`},
	{"GET", "/v1/policy/approvals", "", ""},
	{"GET", "/v1/policy/log", "", ""},
	{"DELETE", "/v1/policy/approvals", "ref=a1&why=x", ""},
	{"GET", "/v1/devfs", "", ""},
	{"GET", "/v1/devfs/explain", "ref=prog", ""},
	{"GET", "/v1/metrics", "", ""},
	{"GET", "/v1/doctor", "", ""},
	{"POST", "/v1/reload", "", ""},
	{"POST", "/v1/upgrade", "", `{"binary":"/nothing"}`},
}

// ask sends a request. Its client has gone already, so that what
// waits for something would wait for ever.
func ask(h http.Handler, method, path, query, body string) *httptest.ResponseRecorder {
	ctx, gone := context.WithCancel(context.Background())
	gone()
	r := (&http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query},
		Header: http.Header{"Upgrade": {client.ExecProtocol}}, Host: "freejail",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body))}).WithContext(ctx)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// refused wants an error that says that the request itself is wrong.
func refused(t *testing.T, w *httptest.ResponseRecorder, what, want string) {
	t.Helper()
	var e client.Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusBadRequest ||
		!strings.Contains(e.Message, want) {
		t.Errorf("%s: %d %s, want an error with %q", what, w.Code, w.Body, want)
	}
}

// Nothing that a request says is passed over in silence, and nothing of any size
// is read.
func TestNothingOfARequestIsPassedOver(t *testing.T) {
	h := api.Handler(inProcess(t).backend())
	for _, a := range requests {
		what := a.method + " " + a.path
		refused(t, ask(h, a.method, a.path, "nonsense=1", a.body), what, `unknown query parameter "nonsense"`)
		refused(t, ask(h, a.method, a.path, "%zz", a.body), what, "invalid query")
		if name, _, has := strings.Cut(a.query, "="); has {
			refused(t, ask(h, a.method, a.path, a.query+"&"+name+"=x", a.body), what, "twice")
		}
		if strings.Contains(a.query, "=true") || strings.Contains(a.query, "=false") {
			refused(t, ask(h, a.method, a.path, strings.NewReplacer("=true", "=yes", "=false", "=no").Replace(a.query),
				a.body), what, "neither true nor false")
		}
		if a.body == "" || strings.Contains(a.path, "/one/exec") || strings.Contains(a.path, "exports") {
			continue // the task, and the exports, are looked for first
		}
		for body, want := range map[string]string{
			`{"nonsense":1,` + a.body[1:]:                    "unknown field",
			a.body + "{}":                                    "invalid request",
			strings.Replace(a.body, "{", `{"x":1,"x":2,`, 1): "duplicate key",
			a.body[:len(a.body)-1]:                           "invalid request",
			"":                                               "invalid request",
			`{"id":"` + strings.Repeat("a", 9<<20) + `"}`: "over the limit",
			`[` + strings.Repeat("[", 100000):             "invalid request",
		} {
			refused(t, ask(h, a.method, a.path, a.query, body), what, want)
		}
	}
}

// FuzzRequest has any request answered: no route panics, waits, or says what is
// no answer. An upgrade executes what it is told, so it is not asked for here.
func FuzzRequest(f *testing.F) {
	for i, a := range requests {
		f.Add(uint8(i), a.path, a.query, a.body)
	}
	h := api.Handler(inProcess(f).backend())
	f.Fuzz(func(t *testing.T, route uint8, path, query, body string) {
		a := requests[int(route)%len(requests)]
		if strings.Contains(path, "upgrade") || !strings.HasPrefix(path, "/") {
			path = a.path
		}
		if a.path == "/v1/upgrade" || strings.Contains(query, "ref=%2F") || strings.Contains(query, "ref=/") ||
			strings.Contains(body, `:"/`) {
			return // files of this host are not what is tried
		}
		w := ask(h, a.method, path, query, body)
		if w.Code >= 400 && w.Header().Get("Content-Type") == "application/json" {
			var e client.Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.Message == "" ||
				api.StatusOf[e.Code] != w.Code {
				t.Fatalf("%s %s?%s: %d %q", a.method, path, query, w.Code, w.Body)
			}
		}
	})
}
