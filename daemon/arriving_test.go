package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// halfway serves a registry, and of a large blob a half until it is opened, or something else instead of the rest.
func halfway(t *testing.T, r *remote, open chan struct{}, spoil bool) (host string) {
	t.Helper()
	to, err := url.Parse("http://" + r.host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "/blobs/") {
			w = &halfWriter{ResponseWriter: w, ctx: req.Context(), open: open, spoil: spoil}
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://")
}

type halfWriter struct {
	http.ResponseWriter
	ctx   context.Context
	open  chan struct{}
	n     int
	spoil bool
}

func (h *halfWriter) Write(b []byte) (int, error) {
	if h.n += len(b); h.n > 1<<20 {
		if err := http.NewResponseController(h.ResponseWriter).Flush(); err != nil {
			return 0, err
		}
		select {
		case <-h.open:
		case <-h.ctx.Done():
			return 0, h.ctx.Err()
		}
		if h.spoil {
			clear(b)
		}
	}
	return h.ResponseWriter.Write(b)
}

func (h *halfWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// unpackedFiles counts the files of chains that are being unpacked.
func unpackedFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "/tmp/chain-") {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // it is being written to
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An image that is here does not wait for one of the same layers whose registry gives half of them.
func TestNoWaitingForWhatArrives(t *testing.T) {
	r := newRemote(t, "")
	r.push(t, "", "prog:1", greeter)
	other := greeter
	other.Gzip = true // the same layer in another image
	r.push(t, "", "prog:2", other)
	dir, open := shortDir(t), make(chan struct{})
	defer close(open)
	host := halfway(t, r, open, false)
	d, _ := daemonAt(t, dir, (&remote{host: host}).config("")+r.config(""))
	if _, err := d.Pull(t.Context(), client.PullRequest{Ref: r.host + "/prog:1"}, nil); err != nil {
		t.Fatal(err)
	}
	start := func(ctx context.Context, id, image string) error {
		_, err := d.Start(ctx, client.TaskSpec{ID: id, Owner: "nomad", Image: image,
			Parameters: map[string]string{"GREETING": "x"}})
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- start(ctx, "slow", host+"/prog:2") }()
	for unpackedFiles(t, dir) == 0 {
		select {
		case err := <-ended:
			t.Fatalf("the start ended before its image was there: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := start(t.Context(), "here", r.host+"/prog:1"); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("an image came of which a half is there")
	}
	if err := d.Destroy(t.Context(), "here", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}

// A task's image is unpacked while it arrives, and only one that the policy permits. What arrives wrong at last is not
// run, and nothing of it is left.
func TestUnpackedWhileItArrives(t *testing.T) {
	r := newRemote(t, "")
	digest := r.push(t, "", "prog:1", greeter)
	for name, c := range map[string]struct{ permitted, spoil bool }{"permitted": {permitted: true}, "refused": {},
		"another": {permitted: true, spoil: true}} {
		t.Run(name, func(t *testing.T) {
			dir, open := shortDir(t), make(chan struct{})
			host := halfway(t, r, open, c.spoil)
			d, _ := daemonAt(t, dir, (&remote{host: host}).config(""))
			spec := client.TaskSpec{ID: "one", Owner: "nomad", Image: host + "/prog:1",
				Parameters: map[string]string{"GREETING": "x"}}
			if !c.permitted {
				spec.Wants.Allow = []string{"raw_sockets"}
			}
			ended := make(chan error, 1)
			go func() {
				task, err := d.Start(t.Context(), spec)
				if err == nil && task.Digest != digest {
					err = errors.New("it runs " + task.Digest)
				}
				ended <- err
			}()
			if c.permitted {
				for unpackedFiles(t, dir) == 0 {
					select {
					case err := <-ended:
						t.Fatalf("the start ended before its image was there: %v", err)
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
			close(open)
			err := <-ended
			if (err == nil) != (c.permitted && !c.spoil) || client.IsRefused(err) == c.permitted {
				t.Errorf("the start: %v", err)
			}
			unpacked := 0
			if err := d.Events(t.Context(), 0, false, func(e client.Event) error {
				if e.Kind == "unpacking" && !strings.Contains(e.Message, " layers, ") { // how far it is, on a slow host
					unpacked++
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if want := map[bool]int{true: 1}[c.permitted]; unpacked != want {
				t.Errorf("unpacked %d times, want %d", unpacked, want)
			}
			if left := unpackedFiles(t, dir); left != 0 {
				t.Errorf("%d files are left of unpackings", left)
			}
			if err == nil {
				if err := d.Destroy(t.Context(), "one", true); err != nil {
					t.Error(err)
				}
			}
			nothingLeft(t, dir)
		})
	}
}
