package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/freejail/freejail/image/layout"
)

// site is a registry and its mirror, which have the same, on a clock that need not be waited for.
type site struct {
	srv *Server
	// How the mirror is from the beginning, or after it has died midway.
	dial    error // of a connection that is tried then
	took    time.Duration
	midway  bool // it dies when half of each layer was sent
	breaks  bool // where it does so, the connection ends
	falters bool // it gives no more than 1,000 bytes of a layer at once
	mu      sync.Mutex
	dead    bool
	tried   int // connections to the mirror since it is dead
	origin  int // blobs that the registry gave, whole or in part
	partial int
}

func (s *site) RoundTrip(req *http.Request) (*http.Response, error) {
	mirror := req.URL.Host == "mirror.example"
	blob := strings.Contains(req.URL.Path, "/blobs/")
	s.mu.Lock()
	dead := mirror && s.dead
	if dead {
		s.tried++
	}
	if blob && !mirror && req.Method == http.MethodGet {
		s.origin++
		if req.Header.Get("Range") != "" {
			s.partial++
		}
	}
	s.mu.Unlock()
	if dead {
		select {
		case <-time.After(s.took):
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: s.dial}
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		}
	}
	rec := httptest.NewRecorder()
	s.srv.ServeHTTP(rec, req)
	resp := rec.Result()
	resp.Request = req
	if mirror && s.midway && blob && resp.ContentLength > 10_000 {
		resp.Body = &half{ReadCloser: resp.Body, site: s, left: resp.ContentLength / 2, ctx: req.Context()}
	}
	if mirror && s.falters && blob && resp.ContentLength > 1000 {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(resp.Body, 1000), iotest.ErrReader(syscall.ECONNRESET)), resp.Body}
	}
	return resp, nil
}

// half is the first half of a blob, after which the mirror is dead.
type half struct {
	io.ReadCloser
	*site
	left int64
	ctx  context.Context
}

func (h *half) Read(p []byte) (int, error) {
	if h.left > 0 {
		n, err := h.ReadCloser.Read(p[:min(int64(len(p)), h.left)])
		h.left -= int64(n)
		return n, err
	}
	h.mu.Lock()
	h.dead = true
	h.mu.Unlock()
	if h.breaks {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	<-h.ctx.Done()
	return 0, context.Cause(h.ctx)
}

// silent is a host that is not there.
type silent struct{}

func (silent) Error() string   { return "i/o timeout" }
func (silent) Timeout() bool   { return true }
func (silent) Temporary() bool { return true }

// A pull within the time that a task has by default succeeds whatever becomes of a mirror meanwhile: the registry is
// there, and gives what is missing.
func TestMirrorThatGoesAway(t *testing.T) {
	refused := error(syscall.ECONNREFUSED)
	for name, s := range map[string]*site{
		"does not answer":        {dead: true, dial: silent{}, took: 15 * time.Second},
		"refuses":                {dead: true, dial: refused},
		"stands still midway":    {midway: true, dial: silent{}, took: 15 * time.Second},
		"breaks off midway":      {midway: true, breaks: true, dial: refused},
		"breaks off, is silent":  {midway: true, breaks: true, dial: silent{}, took: 15 * time.Second},
		"stands still, restarts": {midway: true, dial: refused},
		"falters":                {falters: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var err error
			s.srv, err = NewServer(dir, ServerOptions{})
			check(t, err)
			defer func() { check(t, s.srv.Close()) }()
			c, err := NewClient(Config{Hosts: []Host{{Name: "registry.example", Mirrors: []string{"mirror.example"}}},
				Apart: &Apart{Wire: s}})
			check(t, err)
			from, _ := someImage(t)
			was := s.dead
			s.dead = false
			_, err = c.Copy(ctx, Location{Kind: Layout, Path: from}, loc(t, "registry.example/team/web:1"), CopyOptions{})
			check(t, err)
			s.dead = was
			store := newStore(t)
			var mu sync.Mutex
			var told []string
			tell := func(text string) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, text)
			}
			var sources []Source
			synctest.Test(t, func(t *testing.T) {
				within, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				o := PullOptions{FetchOptions: layout.FetchOptions{Tell: tell},
					Sources: func(list []Source) { sources = list }}
				if _, err := c.Pull(within, store, ref(t, "registry.example/team/web:1"), o); err != nil {
					t.Fatal(err)
				}
			})
			if len(sources) != 2 || !sources[0].Mirror || sources[0].PassedOver == "" || sources[1].Bytes == 0 ||
				sources[1].Mirror || sources[1].PassedOver != "" {
				t.Errorf("it came from %+v", sources)
			}
			text := strings.Join(told, "\n")
			if strings.Count(text, "mirror mirror.example is passed over: ") != 1 ||
				!strings.Contains(text, " from registry.example") {
				t.Errorf("told %q", text)
			}
			if s.origin == 0 || (s.midway || s.falters) && s.partial == 0 {
				t.Errorf("the registry gave %d blobs, %d from the middle on", s.origin, s.partial)
			}
			if s.tried > 6 {
				t.Errorf("the mirror was tried %d times after it had gone away", s.tried)
			}
		})
	}
}

// Where neither answers, the registry is given the same time as without a mirror.
func TestNobodyAnswers(t *testing.T) {
	asked := map[string]int{}
	c, err := NewClient(Config{Hosts: []Host{{Name: "registry.example", Mirrors: []string{"mirror.example"}}},
		Apart: &Apart{Wire: roundTrip(func(req *http.Request) (*http.Response, error) {
			asked[req.URL.Host]++
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: silent{}}
		})}})
	check(t, err)
	store := newStore(t)
	synctest.Test(t, func(t *testing.T) {
		_, err := c.Pull(t.Context(), store, ref(t, "registry.example/team/web:1"), PullOptions{})
		wantError(t, err, "mirror.example", "registry.example", "i/o timeout")
		if errors.Is(err, ErrNotFound) || asked["mirror.example"] != 1 || asked["registry.example"] != attempts {
			t.Errorf("asked %v: %v", asked, err)
		}
	})
}

// A mirror that has not the image does not speak for a registry that is away, but the registry does for both.
func TestNoSuchImage(t *testing.T) {
	for _, c := range []struct {
		mirror, registry int // statuses; 0 is refused
		missing          bool
	}{{404, 0, false}, {404, 503, false}, {404, 404, true}, {0, 404, true}, {503, 404, true}} {
		cl, err := NewClient(Config{Hosts: []Host{{Name: "registry.example", Mirrors: []string{"mirror.example"}}},
			Apart: &Apart{Wire: roundTrip(func(req *http.Request) (*http.Response, error) {
				code := c.registry
				if req.URL.Host == "mirror.example" {
					code = c.mirror
				}
				if code == 0 {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
				}
				rec := httptest.NewRecorder()
				rec.WriteHeader(code)
				resp := rec.Result()
				resp.Request = req
				return resp, nil
			})}})
		check(t, err)
		store := newStore(t)
		synctest.Test(t, func(t *testing.T) {
			_, err := cl.Pull(t.Context(), store, ref(t, "registry.example/team/web:1"), PullOptions{})
			if errors.Is(err, ErrNotFound) != c.missing {
				t.Errorf("%+v: %v", c, err)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
