package daemon

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/internal/testimage"
)

// silent is a registry that takes connections and never says anything.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	return l.Addr().String()
}

// endless is an archive whose only blob is a hole of 8 GiB, which takes long to
// read.
func endless(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endless.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	h := &tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Mode: 0o644, Size: 8 << 30, Format: tar.FormatGNU}
	if err := errors.Join(tar.NewWriter(f).WriteHeader(h), f.Truncate(8<<30+4096), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// large is an image whose layer takes a while to unpack.
func large(t *testing.T) string {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "large", Cmd: []string{"inside"},
		Zeros: map[string]int64{"/zeros": 512 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// events are those of a task from now on.
func events(t *testing.T, c *client.Client, id string) func(kind string) {
	t.Helper()
	ch := make(chan client.Event, 100)
	after := uint64(0)
	if err := c.Events(t.Context(), 0, false, func(e client.Event) error { after = e.Seq; return nil }); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = c.Events(t.Context(), after, true, func(e client.Event) error { // ends with the test
			if e.Task == id {
				ch <- e
			}
			return nil
		})
	}()
	return func(kind string) {
		t.Helper()
		for {
			select {
			case e := <-ch:
				if e.Kind == kind {
					return
				}
			case <-t.Context().Done():
				t.Fatalf("no event %q", kind)
			}
		}
	}
}

// Wherever a start is, a stop, a destruction and its client's going end it, and
// nothing is left of it.
func TestAStartCanBeEnded(t *testing.T) {
	host := silent(t)
	phases := map[string]struct{ image, event string }{
		"pull":   {host + "/prog:1", "pulling"},
		"import": {endless(t), "pulling"},
		"unpack": {large(t), "unpacking"},
	}
	for phase, p := range phases {
		for _, how := range []string{"stop", "destroy", "gone"} {
			t.Run(phase+" "+how, func(t *testing.T) {
				dir := shortDir(t)
				c, _ := daemonAt(t, dir, fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", host))
				ctx, gone := context.WithCancel(t.Context())
				defer gone()
				await := events(t, c, "one")
				started := make(chan error, 1)
				go func() {
					_, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "nomad", Image: p.image})
					started <- err
				}()
				await(p.event)
				if err := c.Destroy(t.Context(), "one", false); err == nil {
					t.Error("destroyed without force")
				}
				endStart(t, c, how, gone)
				err := <-started
				if how != "gone" &&
					(err == nil || !strings.Contains(err.Error(), "was stopped while it was starting")) {
					t.Errorf("the start: %v", err)
				}
				if how == "gone" {
					await("failed")
					_ = c.Destroy(t.Context(), "one", true) // when this is done, so is the undoing
				}
				nothingStarted(t, c, dir)
			})
		}
	}
}

func endStart(t *testing.T, c *client.Client, how string, gone func()) {
	t.Helper()
	switch how {
	case "stop":
		exit, err := c.Stop(t.Context(), "one", client.StopRequest{Timeout: client.Duration(time.Hour)})
		if err != nil || exit == nil || exit.Known {
			t.Errorf("stop: %+v %v", exit, err)
		}
	case "destroy":
		if err := c.Destroy(t.Context(), "one", true); err != nil {
			t.Error(err)
		}
	case "gone":
		gone()
	}
}

// nothingStarted wants the host as it was, and the id free.
func nothingStarted(t *testing.T, c *client.Client, dir string) {
	t.Helper()
	if tasks, err := c.Tasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("tasks: %+v %v", tasks, err)
	}
	nothingLeft(t, dir)
	for _, sub := range []string{"storage/tmp", "storage/chains", "images/tmp"} {
		if e, err := os.ReadDir(filepath.Join(dir, "state", sub)); err != nil || len(e) != 0 {
			t.Errorf("%s: left: %v %v", sub, e, err)
		}
	}
}

// A start that changes the host already is ended at its next step, be it the
// last.
func TestAStartCanBeEndedAtEachStep(t *testing.T) {
	path := archive(t, greeting)
	for i, point := range []string{"ruleset:journalled", "root:done", "mounts:journalled", "mounts:done",
		"jail:journalled", "process:done"} {
		t.Run(point, func(t *testing.T) {
			dir, id := shortDir(t), fmt.Sprintf("c%d-%d", os.Getpid(), i)
			fifo := filepath.Join(dir, "pause")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("FREEJAIL_FAULT_POINT", point+"="+fifo)
			c, _ := daemonAt(t, dir, "")
			await := events(t, c, id)
			started, ended := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "nomad", Image: path,
					Parameters: map[string]string{"GREETING": "x"}})
				started <- err
			}()
			w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // when the daemon has come there
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- c.Destroy(t.Context(), id, true) }()
			await("stopping")
			w.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := <-started; err == nil || !strings.Contains(err.Error(), "was stopped while it was starting") {
				t.Errorf("the start: %v", err)
			}
			nothingLeft(t, dir)
			if left := leftOnHost(t, dir, id); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// An upgrade does not wait for a pull, nor does another start; the pull begins
// again with the new daemon, and can be ended there.
func TestUpgradeWhileAPullHangs(t *testing.T) {
	dir, host := shortDir(t), silent(t)
	c, _ := daemonAt(t, dir, fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", host))
	path, two := archive(t, greeting), fmt.Sprintf("u%d", os.Getpid())
	await := events(t, c, "one")
	started, pulled := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: host + "/prog:1"})
		started <- err
	}()
	await("pulling")
	ctx, gone := context.WithCancel(t.Context())
	defer gone()
	go func() {
		_, err := c.Pull(ctx, client.PullRequest{Ref: host + "/prog:2"}, nil)
		pulled <- err
	}()
	answers := make(chan *http.Response, 1)
	go func() {
		answers <- rawStart(t, c, `{"id":"raw","owner":"nomad","image":"`+host+
			`/prog:3","wants":{},"limits":{},"service":{}}`)
	}()
	for {
		if _, err := c.Task(t.Context(), "raw"); err == nil {
			break
		}
	}
	if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
		t.Fatal(err)
	}
	resp := <-answers
	var told client.Error
	if err := json.NewDecoder(resp.Body).Decode(&told); err != nil || told.Code != client.CodeUpgrading ||
		resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("who does not ask again was told: %d %+v %v", resp.StatusCode, told, err)
	}
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: two, Owner: "nomad", Image: path,
		Parameters: map[string]string{"GREETING": "x"}}); err != nil {
		t.Errorf("another start: %v", err)
	}
	for {
		if _, err := c.Task(t.Context(), "one"); err == nil { // begun again
			break
		}
	}
	endStart(t, c, "stop", nil)
	if err := <-started; err == nil || !strings.Contains(err.Error(), "was stopped while it was starting") {
		t.Errorf("the start: %v", err)
	}
	gone()
	if err := <-pulled; !errors.Is(err, context.Canceled) {
		t.Errorf("the pull: %v", err)
	}
	if err := c.Destroy(t.Context(), two, true); err != nil {
		t.Error(err)
	}
	if tasks, err := c.Tasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("tasks: %+v %v", tasks, err)
	}
	nothingLeft(t, dir)
}

// rawStart asks once.
func rawStart(t *testing.T, c *client.Client, spec string) *http.Response {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.Socket())
		}}}
	resp, err := h.Post("http://freejail/v1/tasks", "application/json", strings.NewReader(spec))
	if err != nil {
		t.Error(err)
		return &http.Response{Body: http.NoBody}
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// What is no file and no directory is refused wherever an image may be given,
// and nobody waits for it.
func TestAFIFOIsNoImage(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	_, own, _ := allocDir(t)
	local := filepath.Join(own, "local")
	layout := func(name, fifo string) string {
		at := filepath.Join(local, name)
		if err := errors.Join(os.MkdirAll(filepath.Join(at, "blobs", "sha256"), 0o755), os.WriteFile(filepath.Join(at,
			"oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)); err != nil {
			t.Fatal(err)
		}
		if fifo != "index.json" {
			index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `","size":10}]}`
			if err := os.WriteFile(filepath.Join(at, "index.json"), []byte(index), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if fifo == "blobs" {
			if err := os.RemoveAll(filepath.Join(at, "blobs")); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mkfifo(filepath.Join(at, fifo), 0o644); err != nil {
			t.Fatal(err)
		}
		return at
	}
	fifo, link := filepath.Join(local, "x.tar"), filepath.Join(local, "link.tar")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o644), os.Symlink("x.tar", link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, layout("index", "index.json"),
		layout("blob", "blobs/sha256/"+strings.Repeat("a", 64)), layout("blobs", "blobs"), os.DevNull} {
		for _, confined := range [][]string{nil, {own}} {
			_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: path, Confined: confined})
			if err == nil {
				t.Fatalf("%s: it started", path)
			}
			if want := "FIFO"; path != os.DevNull && !strings.HasSuffix(path, "blobs") &&
				!strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		}
		_, err1 := c.Import(t.Context(), client.ImportRequest{Path: path}, nil)
		_, err2 := c.Image(t.Context(), path)
		_, err3 := c.CheckPolicy(t.Context(), client.TaskSpec{Image: path})
		_, err4 := judge.CheckImage(t.Context(), path, "")
		for i, err := range []error{err1, err2, err3, err4} {
			if err == nil {
				t.Errorf("%s: way %d took it", path, i+1)
			}
		}
	}
	nothingStarted(t, c, dir)
}

// No link in a task's own directory makes the daemon read an image elsewhere.
func TestAnImageDoesNotLeadOut(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	_, own, outside := allocDir(t)
	if err := errors.Join(os.Rename(archive(t, greeting), filepath.Join(outside, "x.tar")),
		os.Symlink(outside, filepath.Join(own, "local", "out")),
		os.Symlink("../../../outside/x.tar", filepath.Join(own, "local", "x.tar"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"local/out/x.tar", "local/x.tar"} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: filepath.Join(own, name),
			Confined: []string{own}, Parameters: map[string]string{"GREETING": "x"}})
		if err == nil || !strings.Contains(err.Error(), "outside of the task's directory") {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingStarted(t, c, dir)
}
