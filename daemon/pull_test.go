package daemon

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/testimage"
)

// remote is a registry of ours that a test can switch off.
type remote struct {
	host string
	down atomic.Bool
	gets atomic.Int64
	seen func(http.ResponseWriter, *http.Request) http.ResponseWriter // of each request; may be nil
}

// newRemote serves a registry; with a password only for the user fleet.
func newRemote(t *testing.T, password string) *remote {
	t.Helper()
	o := registry.ServerOptions{}
	if password != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "htpasswd")
		if err := os.WriteFile(file, []byte("fleet:"+string(hash)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if o.Users, err = registry.ReadUsers(file); err != nil {
			t.Fatal(err)
		}
	}
	srv, err := registry.NewServer(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.down.Load() {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.gets.Add(1)
		if r.seen != nil {
			w = r.seen(w, req)
		}
		srv.ServeHTTP(w, req)
	}))
	r.host = strings.TrimPrefix(web.URL, "http://")
	t.Cleanup(func() {
		web.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// push puts an image of this test's binary into the registry, and returns its
// digest.
func (r *remote) push(t *testing.T, password, name string, spec testimage.Spec) string {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), spec)
	if err != nil {
		t.Fatal(err)
	}
	h := registry.Host{Name: r.host, PlainHTTP: true}
	if password != "" {
		h.Username, h.PasswordFile = "fleet", filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(h.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := registry.NewClient(registry.Config{Hosts: []registry.Host{h}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := registry.ParseReference(r.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	done, err := c.Copy(t.Context(), registry.Location{Kind: registry.Archive, Path: path},
		registry.Location{Kind: registry.Remote, Ref: ref}, registry.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return done.Digest.String()
}

func (r *remote) config(more string) string {
	return fmt.Sprintf("registry %q {\n  plain_http = true\n%s}\n", r.host, more)
}

var greeter = testimage.Spec{Name: "prog", Manifest: greeting, Cmd: []string{"inside"}}

// A task's image comes from a registry; the digest that it runs is known, and
// stays when the tag moves on.
func TestPullForATask(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	first := r.push(t, "", "team/prog:1", greeter)
	c, stop := daemonAt(t, dir, r.config("")+fmt.Sprintf("default_registry = %q\n", r.host+"/team"))
	ctx := t.Context()
	start := func(id, image string, force bool) (*client.Task, error) {
		return c.Start(ctx, client.TaskSpec{ID: id, Owner: "nomad", Image: image, ForcePull: force,
			Parameters: map[string]string{"GREETING": "x"}})
	}
	name := r.host + "/team/prog:1"
	task, err := start("one", name, false)
	if err != nil || task.Digest != first {
		t.Fatalf("got %+v, %v", task, err)
	}
	changed := greeter
	changed.Files = map[string]string{"/etc/changed": "yes"}
	second := r.push(t, "", "team/prog:1", changed)
	for id, want := range map[string]struct {
		image  string
		force  bool
		digest string
	}{"local": {name, false, first}, "pinned": {r.host + "/team/prog@" + first, false, first},
		"short": {"prog:1", false, first}} {
		if task, err := start(id, want.image, want.force); err != nil || task.Digest != want.digest {
			t.Errorf("%s: got %+v, %v", id, task, err)
		}
	}
	if task, err := start("forced", name, true); err != nil || task.Digest != second {
		t.Errorf("got %+v, %v", task, err)
	}
	r.down.Store(true)
	if _, err := start("gone", r.host+"/team/other:1", false); !client.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if _, err := start("again", name, false); err != nil {
		t.Errorf("what is there needs no registry: %v", err)
	}
	stop(os.Kill)
	c, _ = daemonAt(t, dir, r.config(""))
	if task, err := c.Task(ctx, "one"); err != nil || task.Digest != first || task.State != client.Running {
		t.Errorf("after a crash: %+v, %v", task, err)
	}
	for _, id := range []string{"one", "local", "pinned", "short", "forced", "again"} {
		if err := c.Destroy(ctx, id, true); err != nil {
			t.Error(err)
		}
	}
	// Tasks' pulls are forgotten when they are old; nobody has named them.
	tiny := time.Nanosecond
	if _, err := c.GC(ctx, client.GCRequest{Older: &tiny}); err != nil {
		t.Fatal(err)
	}
	if list, err := c.Images(ctx); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	nothingLeft(t, dir)
}

// A job's credentials reach the registry and nothing else.
func TestPullWithAJobsCredentials(t *testing.T) {
	const password = "open-sesame-4711"
	dir, r := shortDir(t), newRemote(t, password)
	r.push(t, password, "private:1", greeter)
	c, _ := daemonAt(t, dir, r.config(""))
	ctx := t.Context()
	spec := client.TaskSpec{ID: "one", Owner: "nomad", Image: r.host + "/private:1",
		Parameters: map[string]string{"GREETING": "x"}}
	if _, err := c.Start(ctx, spec); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Fatalf("without credentials: %v", err)
	}
	spec.Auth = &client.Auth{Username: "fleet", Password: "wrong-" + password}
	if _, err := c.Start(ctx, spec); err == nil || strings.Contains(err.Error(), password) {
		t.Fatalf("with a wrong password: %v", err)
	}
	spec.Auth.Password = password
	task, err := c.Start(ctx, spec)
	if err != nil || task.Spec.Auth != nil {
		t.Fatalf("got %+v, %v", task, err)
	}
	var events strings.Builder
	if err := c.Events(ctx, 0, false,
		func(e client.Event) error { fmt.Fprintln(&events, e.Kind, e.Message); return nil }); err != nil {
		t.Fatal(err)
	}
	if text := events.String(); strings.Contains(text, password) || !strings.Contains(text, "pulling "+spec.Image) ||
		!strings.Contains(text, task.Digest) {
		t.Errorf("the events are\n%s", text)
	}
	if text := fmt.Sprintf("%v %+v %#v", *spec.Auth, spec, spec.Auth); strings.Contains(text, password) {
		t.Errorf("it shows when it is printed: %s", text)
	}
	err = filepath.WalkDir(filepath.Join(dir, "state"), func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(p, "/storage/") {
			return nil
		}
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), password) &&
			!strings.Contains(p, "blobs") {
			t.Errorf("%s has the password in it", p)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := c.Destroy(ctx, "one", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}

// An image that a job's credentials brought is for those whom the registry would
// give it, whether they name it or its digest.
func TestAPrivateImageIsNotEverybodys(t *testing.T) {
	const password = "open-sesame-4711"
	dir, r := shortDir(t), newRemote(t, password)
	digest := r.push(t, password, "private:1", greeter)
	c, stop := daemonAt(t, dir, r.config(""))
	ctx := t.Context()
	name := r.host + "/private:1"
	good, bad := &client.Auth{Username: "fleet", Password: password}, &client.Auth{Username: "fleet", Password: "guess"}
	start := func(image, owner string, auth *client.Auth) error {
		t.Helper()
		_, err := c.Start(ctx, client.TaskSpec{ID: "private", Owner: owner, Image: image, Auth: auth,
			Parameters: map[string]string{"GREETING": "x"}})
		if err == nil {
			err = c.Destroy(ctx, "private", true)
			if err != nil {
				t.Error(err)
			}
		}
		return err
	}
	others := func(when string) {
		t.Helper()
		for who, auth := range map[string]*client.Auth{"nobody": nil, "a guesser": bad} {
			for _, image := range []string{name, "sha256:" + strings.TrimPrefix(digest, "sha256:"), r.host +
				"/private@" + digest} {
				if err := start(image, "nomad", auth); err == nil || strings.Contains(err.Error(), password) {
					t.Errorf("%s: %s starts %s: %v", when, who, image, err)
				}
			}
		}
	}
	if err := start(name, "nomad", good); err != nil {
		t.Fatal(err)
	}
	others("after the pull")
	if err := start(digest, "nomad", good); err != nil {
		t.Errorf("by its digest: %v", err)
	}
	if err := start(name, "cli", nil); err != nil {
		t.Errorf("the operator's: %v", err)
	}
	if _, err := c.Image(ctx, name); err != nil {
		t.Errorf("the operator sees it: %v", err)
	}
	err := c.Save(ctx, client.SaveRequest{Images: []string{name}}, io.Discard, func(string) {})
	if !client.IsRefused(err) {
		t.Errorf("it is saved: %v", err)
	}
	if _, err := c.CheckPolicy(ctx, client.TaskSpec{ID: "private", Owner: "nomad", Image: name}); err != nil {
		t.Errorf("what would be decided about it is no secret: %v", err)
	}
	r.down.Store(true)
	if err := start(name, "nomad", good); err != nil {
		t.Errorf("who pulled it needs no registry: %v", err)
	}
	others("without the registry")
	stop(os.Kill)
	c, stop = daemonAt(t, dir, r.config(""))
	others("with a new daemon, without the registry")
	if err := start(name, "nomad", good); err == nil {
		t.Error("a new daemon asks nobody")
	}
	r.down.Store(false)
	others("with a new daemon")
	if err := start(name, "nomad", good); err != nil {
		t.Errorf("with a new daemon: %v", err)
	}
	stop(os.Kill)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ = daemonAt(t, dir, r.config(fmt.Sprintf("username = \"fleet\"\npassword_file = %q\n", file)))
	if err := start(name, "nomad", nil); err != nil {
		t.Errorf("with the host's credentials: %v", err)
	}
	nothingLeft(t, dir)
}

// The first digits of a digest are no name of an image, and digits alone no digest:
// an image with the same is soon made.
func TestDigitsAreNames(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	digest := r.push(t, "", "prog:1", greeter)
	c, _ := daemonAt(t, dir, r.config(""))
	ctx := t.Context()
	if _, err := c.Pull(ctx, client.PullRequest{Ref: r.host + "/prog:1"}, nil); err != nil {
		t.Fatal(err)
	}
	hex := strings.TrimPrefix(digest, "sha256:")
	for image, want := range map[string]string{hex: "a digest is written sha256:",
		hex[:12]: "a digest is written sha256:", "sha256:" + hex[:12]: "given in full", digest: ""} {
		_, err := c.Start(ctx, client.TaskSpec{ID: "digits", Owner: "nomad", Image: image,
			Parameters: map[string]string{"GREETING": "x"}})
		if err == nil {
			if derr := c.Destroy(ctx, "digits", true); derr != nil {
				t.Error(derr)
			}
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", image, err, want)
		}
	}
	if i, err := c.Image(ctx, "sha256:"+hex[:12]); err != nil || i.Digest != digest {
		t.Errorf("the command line takes the first digits: %+v, %v", i, err)
	}
	nothingLeft(t, dir)
}

// An operator's pull tells how far it is, and what is refused says why.
func TestOperatorsPull(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	digest := r.push(t, "", "prog:1", greeter)
	c, _ := daemonAt(t, dir, r.config(""))
	ctx := t.Context()
	told := 0
	i, err := c.Pull(ctx, client.PullRequest{Ref: r.host + "/prog:1"}, func(p client.ImageProgress) { told++ })
	if err != nil || i.Digest != digest || told == 0 {
		t.Fatalf("got %+v, %v, told %d times", i, err, told)
	}
	tiny := time.Nanosecond
	if got, err := c.GC(ctx, client.GCRequest{Older: &tiny}); err != nil || len(got.Images) != 0 {
		t.Errorf("what an operator has pulled was forgotten: %+v, %v", got, err)
	}
	for name, want := range map[string]string{"prog": "names no registry", r.host + "/nothing:1": "no such image",
		r.host + "/Prog":  "not a valid repository name",
		"127.0.0.1:1/x:1": "plain"} {
		if _, err := c.Pull(ctx, client.PullRequest{Ref: name}, nil); err == nil ||
			!strings.Contains(err.Error(), want) && want != "plain" {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	for image, want := range map[string]string{"prog": "names no registry", "prog@x": "names no registry", r.host +
		"/x y": "not a valid repository name"} {
		_, err := c.Start(ctx, client.TaskSpec{ID: "bad", Owner: "nomad", Image: image})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", image, err, want)
		}
	}
	if _, err := c.Start(ctx, client.TaskSpec{ID: "bad", Owner: "nomad", Image: "prog", ForcePull: true}); err == nil ||
		!strings.Contains(err.Error(), "force_pull") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

// What a pull took from layers that are here is told to who waits, in the task's events, and counted.
func TestPullTellsWhatIsReused(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	c, _ := daemonAt(t, dir, r.config(""))
	ctx := t.Context()
	spec := greeter
	spec.Chunked = true
	for v := range 3 {
		spec.Files = map[string]string{"/etc/version": fmt.Sprint(v)}
		r.push(t, "", fmt.Sprint("prog:", v), spec)
	}
	for v, want := range []bool{false, true} {
		i, err := c.Pull(ctx, client.PullRequest{Ref: fmt.Sprintf("%s/prog:%d", r.host, v)}, nil)
		if err != nil || i.Reused > i.Size/2 != want {
			t.Fatalf("version %d: got %+v, %v", v, i, err)
		}
	}
	if _, err := c.Start(ctx, client.TaskSpec{ID: "a", Owner: "nomad", Image: r.host + "/prog:2",
		Parameters: map[string]string{"GREETING": "x"}}); err != nil {
		t.Fatal(err)
	}
	told := ""
	if err := c.Events(ctx, 0, false, func(e client.Event) error {
		if e.Kind == "pulled" {
			told = e.Message
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told, " were reused from other layers of this host") {
		t.Errorf("the event says %q", told)
	}
	if text := metricsOf(t, c); strings.Contains(text, "\nfreejail_pull_reused_bytes_total 0\n") ||
		!strings.Contains(text, "\nfreejail_pull_reused_bytes_total ") {
		t.Error("nothing was counted as reused")
	}
	if err := c.Destroy(ctx, "a", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}

// A pull that takes too long says so, and the next one goes on from there.
func TestPullTimeout(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	r.push(t, "", "prog:1", greeter)
	slow := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	defer slow.Close()
	host := strings.TrimPrefix(slow.URL, "http://")
	c, _ := daemonAt(t, dir, fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", host))
	_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: host + "/prog:1",
		PullTimeout: client.Duration(200 * time.Millisecond)})
	if err == nil || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, dir)
}

// A task's pull ends some day, whatever its job says, and who reads the events is told.
func TestPullTimeoutIsBounded(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	c, _ := daemonAt(t, dir, r.config(""))
	_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: r.host + "/missing:1",
		PullTimeout: client.Duration(25 * time.Hour)})
	if !client.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	told := false
	err = c.Events(t.Context(), 0, false, func(e client.Event) error {
		told = told || e.Task == "one" && strings.Contains(e.Message, "the pull ends after 24h")
		return nil
	})
	if err != nil || !told {
		t.Errorf("told: %t, %v", told, err)
	}
	nothingLeft(t, dir)
}
