package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testoci"
	"github.com/freejail/freejail/internal/testprog"
)

func TestMain(m *testing.M) {
	if IsChild() {
		if err := Child(func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serving is a store with a mirror of it.
type serving struct {
	dir, conf, at string
	mu            sync.Mutex
	told          []string
	ended         chan error
}

// newHost stores images of one layer each under their names, and serves.
func newHost(t *testing.T, images, more string, stored map[string][]byte) *serving {
	t.Helper()
	testoci.NeedRoot(t)
	dir, prog := t.TempDir(), testprog.Open(t)
	store, err := layout.OpenStore(filepath.Join(dir, "state", "images"), image.Limits{})
	must(t, err)
	defer store.Close()
	for name, layer := range stored {
		testoci.PutLayers(t, store, name, layer)
	}
	at, err := testagent.Addresses(1)
	must(t, err)
	h := &serving{dir: dir, conf: filepath.Join(dir, "freejail.hcl"), at: at[0].String(), ended: make(chan error, 1)}
	h.configure(t, images, more)
	m := &Mirror{Config: h.conf, Command: []string{prog}, Tell: func(format string, args ...any) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told = append(h.told, fmt.Sprintf(format, args...))
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ended <- m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	must(t, testagent.Await(t.Context(), "the mirror", func() error {
		resp, err := http.Get("http://" + h.at + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}))
	return h
}

func (h *serving) configure(t *testing.T, images, more string) {
	t.Helper()
	text := fmt.Sprintf("state_dir = %q\nmirror {\n  listen = %q\n  images = [%s]\n%s\n}\n",
		filepath.Join(h.dir, "state"), h.at, images, more)
	next := h.conf + ".next"
	must(t, os.WriteFile(next, []byte(text), 0o600))
	must(t, os.Rename(next, h.conf))
}

// says waits for a message.
func (h *serving) says(t *testing.T, what string) string {
	t.Helper()
	found := ""
	must(t, testagent.Await(t.Context(), what, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, text := range h.told {
			if strings.Contains(text, what) {
				found = text
				return nil
			}
		}
		return fmt.Errorf("it has said %q", h.told)
	}))
	return found
}

// pid is that of the process that answers.
func (h *serving) pid(t *testing.T) int {
	t.Helper()
	m := regexp.MustCompile(`process (\d+)`).FindStringSubmatch(h.says(t, "(process "))
	n, err := strconv.Atoi(m[1])
	must(t, err)
	return n
}

// status answers whether there is a blob.
func (h *serving) status(t *testing.T, repository, digest string) int {
	t.Helper()
	resp, err := http.Head("http://" + h.at + "/v2/" + repository + "/blobs/" + digest)
	must(t, err)
	must(t, resp.Body.Close())
	return resp.StatusCode
}

// The process that answers is another user's, and without it there is no mirror.
func TestProcessWithoutRights(t *testing.T) {
	h := newHost(t, `"registry.example/**"`, "", nil)
	pid := h.pid(t)
	out, err := exec.Command("ps", "-o", "uid=", "-p", strconv.Itoa(pid)).Output()
	nobody, lerr := user.Lookup("nobody")
	must(t, errors.Join(err, lerr))
	if got := strings.TrimSpace(string(out)); got != nobody.Uid {
		t.Errorf("the user is %s, want %s", got, nobody.Uid)
	}
	if status := h.status(t, "a/web", digest.FromString("none").String()); status != http.StatusNotFound {
		t.Errorf("without a store: %d", status)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	if err := <-h.ended; err == nil || !strings.Contains(err.Error(), "the process that answers") {
		t.Errorf("it goes on: %v", err)
	}
}

// Others of the same user read nothing of what the process that answers has in memory: the password, and the key.
func TestMemoryIsItsOwn(t *testing.T) {
	h := newHost(t, `"registry.example/**"`, "", nil)
	nobody, err := user.Lookup("nobody")
	must(t, err)
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	must(t, err)
	see := func(pid int) error {
		cmd, lines := exec.Command("cat", fmt.Sprintf("/proc/%d/maps", pid)), 1
		if runtime.GOOS == "freebsd" { // headings are told of any
			cmd, lines = exec.Command("procstat", "vm", strconv.Itoa(pid)), 2
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		out, err := cmd.Output()
		if err == nil && bytes.Count(out, []byte("\n")) < lines {
			err = errors.New("nothing is told")
		}
		return err
	}
	other := exec.Command("sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	must(t, other.Start())
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	must(t, testagent.Await(t.Context(), "another process", func() error { return see(other.Process.Pid) }))
	if see(h.pid(t)) == nil {
		t.Error("its memory can be read")
	}
}

// A store that was removed and made anew is given like the first.
func TestStoreMadeAnew(t *testing.T) {
	dir, layer := filepath.Join(t.TempDir(), "images"), []byte("layer")
	s := &share{dir: dir, fits: func(string) bool { return true }}
	q := question{Repository: "web", Digest: digest.FromBytes(layer)}
	for i := range 2 {
		if f, r := s.open(q); f != nil || r != (reply{}) {
			t.Fatalf("%d: without a store: %+v", i, r)
		}
		store, err := layout.OpenStore(dir, image.Limits{})
		must(t, err)
		testoci.PutLayers(t, store, "registry.example/web:1", layer)
		f, r := s.open(q)
		if !r.Found {
			t.Fatalf("%d: %+v", i, r)
		}
		must(t, errors.Join(f.Close(), store.Close(), os.RemoveAll(dir)))
	}
	must(t, s.close())
}

// A change of the configuration is followed, a faulty one is not, and no transfer ends for either.
func TestConfigurationIsFollowed(t *testing.T) {
	every := lookEvery
	t.Cleanup(func() { lookEvery = every })
	lookEvery = 20 * time.Millisecond
	large, small := bytes.Repeat([]byte("0123456789abcdef"), 4<<20), []byte("small")
	h := newHost(t, `"registry.example/a/**"`, "", map[string][]byte{"registry.example/a/web:1": large,
		"registry.example/b/web:1": small, "file/srv/web.tar": []byte("by its path"), "web": []byte("by a name")})
	one, other := digest.FromBytes(large), digest.FromBytes(small).String()
	resp, err := http.Get("http://" + h.at + "/v2/a/web/blobs/" + one.String())
	must(t, err)
	defer resp.Body.Close()
	sum := one.Algorithm().Hash()
	_, err = io.CopyN(sum, resp.Body, 1000)
	must(t, err)
	for repository, want := range map[string]int{"a/web": 404, "b/web": 404, "web": 404, "srv/web.tar": 404} {
		if got := h.status(t, repository, other); got != want {
			t.Errorf("%s: %d, want %d", repository, got, want)
		}
	}
	h.configure(t, `"registry.example/a/**", "registry.example/b/*"`, "")
	must(t, testagent.Await(t.Context(), "the other image", func() error {
		if got := h.status(t, "b/web", other); got != 200 {
			return fmt.Errorf("status %d", got)
		}
		return nil
	}))
	if got := h.status(t, "registry.example/b/web", other); got != 200 {
		t.Errorf("by its whole name: %d", got)
	}
	h.configure(t, `"web"`, "")
	h.says(t, "names no registry")
	if got := h.status(t, "b/web", other); got != 200 {
		t.Errorf("after a fault: %d", got)
	}
	_, err = io.Copy(sum, resp.Body)
	must(t, err)
	if got := digest.NewDigest(one.Algorithm(), sum); got != one {
		t.Errorf("the transfer gave %s, want %s", got, one)
	}
}

// What is asked for in a way that is work for nothing is not done so.
func TestRequestsThatCost(t *testing.T) {
	layer := bytes.Repeat([]byte("x"), 100_000)
	h := newHost(t, `"registry.example/**"`, "  rate = \"64MiB\"", map[string][]byte{"registry.example/web:1": layer})
	at := "http://" + h.at + "/v2/web/blobs/" + digest.FromBytes(layer).String()
	for ranges, want := range map[string][2]int{
		"bytes=99990-":                      {206, 10},
		"bytes=0-99999999999999":            {206, 100_000},
		"bytes=100000-":                     {416, -1},
		"bytes=99999999999999999999999999-": {416, -1},
		"bytes=0-1,5-6":                     {200, 100_000},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		must(t, err)
		req.Header.Set("Range", ranges)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		b, err := io.ReadAll(resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != want[0] || want[1] >= 0 && len(b) != want[1] {
			t.Errorf("%s: %d with %d bytes, want %v", ranges, resp.StatusCode, len(b), want)
		}
	}
	// A body that never comes keeps nobody.
	c, err := net.Dial("tcp", h.at)
	must(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	must(t, err)
	b, err := io.ReadAll(c) // until the server closes it
	if !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		t.Errorf("a body: %q %v", b, err)
	}
}

// One address has a part of the transfers alone.
func TestTurns(t *testing.T) {
	s := newServer(options{Transfers: 64}, nil, nil)
	var ends []func()
	take := func(address string) bool {
		end := s.begin(address)
		if end != nil {
			ends = append(ends, end)
		}
		return end != nil
	}
	for i := range 16 {
		if !take(fmt.Sprintf("192.0.2.1:%d", 1000+i)) {
			t.Fatalf("transfer %d has no turn", i)
		}
	}
	if take("192.0.2.1:2000") {
		t.Error("one address has more than its part")
	}
	for i := range 48 {
		if !take(fmt.Sprintf("192.0.2.%d:1000", 2+i)) {
			t.Fatalf("address %d has no turn", i)
		}
	}
	if take("192.0.2.200:1000") {
		t.Error("there are more than all")
	}
	for _, end := range ends {
		end()
	}
	if len(s.of) != 0 || s.running != 0 {
		t.Errorf("left: %v %d", s.of, s.running)
	}
}

// The page of metrics has all that a mirror tells, and no others of it.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Skip("the documentation is not here")
	}
	s := newServer(options{Transfers: 1}, nil, nil)
	s.requests.WithLabelValues("200").Inc() // a metric with labels is told from its first value on
	w := httptest.NewRecorder()
	s.scrapes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var told []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\w+) `).FindAllStringSubmatch(w.Body.String(), -1) {
		told = append(told, m[1])
	}
	documented := regexp.MustCompile("(?m)^\\| `(freejail_mirror_[a-z_]+)").FindAllStringSubmatch(string(text), -1)
	var names []string
	for _, m := range documented {
		names = append(names, m[1])
	}
	slices.Sort(told)
	slices.Sort(names)
	if !slices.Equal(names, told) || len(told) == 0 {
		t.Errorf("documented %q\ntold %q", names, told)
	}
}

// Who asks for a blob and does not take it is left, and another has the turn.
func TestWhoTakesNothingIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 1<<30)) // more than sockets hold
	s := newServer(options{Transfers: 1}, func(question) (*os.File, reply, error) {
		f, err := os.Open(path)
		return f, reply{Found: true}, err
	}, nil)
	s.limit = 100 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv, served := s.http(), make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	at := "http://" + l.Addr().String() + "/v2/web/blobs/" + digest.FromString("x").String()
	for _, turn := range []string{"the first turn", "the next turn"} {
		must(t, testagent.Await(t.Context(), turn, func() error {
			resp, err := http.Get(at)
			if err != nil { // a crowded machine may be slow itself
				return err
			}
			t.Cleanup(func() { resp.Body.Close() })
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		}))
	}
}
