package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/mirror"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcert"
	"github.com/freejail/freejail/internal/testprog"
)

// peer is a host that gives its images to others.
type peer struct {
	*client.Client
	dir, at, cert, password string
	http                    *http.Client // which shows the password
	end                     func()       // of the mirror
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newPeer runs a daemon and its mirror, with TLS and a password.
func newPeer(t *testing.T, config, more string) *peer {
	t.Helper()
	p := &peer{dir: shortDir(t), password: "0123456789abcdef0123"}
	files := t.TempDir()
	key, word := filepath.Join(files, "key"), filepath.Join(files, "password")
	p.cert = filepath.Join(files, "cert")
	testcert.Write(t, p.cert, key, 1)
	must(t, os.WriteFile(word, []byte(p.password+"\n"), 0o600))
	at, err := testagent.Addresses(1)
	must(t, err)
	p.at = at[0].String()
	p.Client, _ = daemonAt(t, p.dir, config+fmt.Sprintf(`mirror {
  listen        = %q
  tls_cert      = %q
  tls_key       = %q
  username      = "rack"
  password_file = %q
%s
}
`, p.at, p.cert, key, word, more))
	p.http = &http.Client{Transport: &shown{p.password, testcert.Transport(t, p.cert)}}
	p.end = p.run(t, testprog.Open(t))
	return p
}

// run serves until the function that it returns is called.
func (p *peer) run(t *testing.T, prog string) (end func()) {
	m := &mirror.Mirror{Config: filepath.Join(p.dir, "freejail.hcl"), Command: []string{prog, "mirror"},
		Tell: func(format string, args ...any) { t.Logf(format, args...) }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	must(t, testagent.Await(t.Context(), "the mirror", func() error {
		resp, err := p.http.Get("https://" + p.at + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}))
	return end
}

type shown struct {
	password string
	http.RoundTripper
}

func (s *shown) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth("rack", s.password)
	return s.RoundTripper.RoundTrip(r)
}

// get is a request's status and body.
func (p *peer) get(t *testing.T, c *http.Client, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+p.at, nil)
	must(t, err)
	req.URL.Opaque = "//" + p.at + path // as it is
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// other is the configuration of a host that asks the peer first.
func (p *peer) other(t *testing.T, r *remote) string {
	word := filepath.Join(t.TempDir(), "word")
	must(t, os.WriteFile(word, []byte(p.password), 0o600))
	return r.config(fmt.Sprintf("  mirrors = [%q]\n", p.at)) + fmt.Sprintf(
		"registry %q {\n  ca_file = %q\n  username = \"rack\"\n  password_file = %q\n}\n", p.at, p.cert, word)
}

// sentBy counts what a registry gives of blobs and manifests.
type sentBy struct {
	mu    sync.Mutex
	paths []string
	bytes atomic.Int64
}

func (s *sentBy) take() (paths []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths, s.paths = s.paths, nil
	s.bytes.Store(0)
	return paths
}

func (r *remote) watch(s *sentBy) {
	r.seen = func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		s.mu.Lock()
		s.paths = append(s.paths, req.Method+" "+req.URL.Path)
		s.mu.Unlock()
		return &countingWriter{w, &s.bytes}
	}
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

// A host gives what it has pulled to another one: the registry tells what a tag means, and gives none of the layers.
func TestHostAsMirror(t *testing.T) {
	r, sent := newRemote(t, ""), &sentBy{}
	key, keyFile := keyPair(t)
	spec := greeter
	spec.Zeros = map[string]int64{"/large": 32 << 20}
	want := r.push(t, "", "team/prog:1", spec)
	r.push(t, "", "secret/prog:1", greeter)
	r.sign(t, "team/prog:1", "", key)
	r.watch(sent)
	a := newPeer(t, r.config(""), fmt.Sprintf("  images = [\"%s/team/**\"]", r.host))
	for _, name := range []string{"team/prog:1", "secret/prog:1"} {
		_, err := a.Pull(t.Context(), client.PullRequest{Ref: r.host + "/" + name}, nil)
		must(t, err)
	}
	sent.take()
	signer := fmt.Sprintf("signer \"release\" {\n  key_file = %q\n}\nrequire {\n  signer = [\"release\"]\n"+
		"  images = [\"%s/**\"]\n}\n", keyFile, r.host)
	for _, version := range []string{":1", "@" + want} {
		b, _ := daemonAt(t, shortDir(t), a.other(t, r)+signer)
		task, err := b.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: r.host + "/team/prog" + version,
			Parameters: map[string]string{"GREETING": "x"}})
		if err != nil || task.Digest != want {
			t.Fatalf("%s: %+v, %v", version, task, err)
		}
		n := sent.bytes.Load()
		for _, path := range sent.take() {
			// Signatures are small blobs of the registry's.
			if strings.HasSuffix(path, "/manifests/"+want) {
				t.Errorf("%s: the registry was asked for what the other host has: %s", version, path)
			}
		}
		if n > 64<<10 {
			t.Errorf("%s: the registry gave %d bytes", version, n)
		}
		must(t, b.Destroy(t.Context(), "one", true))
	}
	if n := a.metric(t, "freejail_mirror_sent_bytes_total"); n < 64<<20 {
		t.Errorf("metrics: %v bytes were given", n)
	}
	a.refuses(t, want)

	// What was collected is the registry's to give, and is asked for once.
	err := a.RemoveImage(t.Context(), r.host+"/team/prog:1")
	must(t, err)
	_, err = a.GC(t.Context(), client.GCRequest{})
	must(t, err)
	if status, _ := a.get(t, a.http, "HEAD", "/v2/team/prog/manifests/"+want); status != 404 {
		t.Errorf("after the collection: %d", status)
	}
	c, _ := daemonAt(t, shortDir(t), a.other(t, r))
	if img, err := c.Pull(t.Context(), client.PullRequest{Ref: r.host + "/team/prog:1"}, nil); err != nil || img.Digest != want {
		t.Errorf("without the mirror's: %+v %v", img, err)
	}
}

// metric is one of the mirror's.
func (p *peer) metric(t *testing.T, name string) float64 {
	t.Helper()
	_, text := p.get(t, p.http, "GET", "/metrics")
	_, rest, found := strings.Cut(text, "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !found {
		t.Fatalf("%s: %v of %s", name, err, text)
	}
	return n
}

// refuses tries what nobody may have, or nobody in this way.
func (p *peer) refuses(t *testing.T, manifest string) {
	t.Helper()
	stranger := &http.Client{Transport: testcert.Transport(t, p.cert)}
	guest := &http.Client{Transport: &shown{"0123456789abcdef0124", testcert.Transport(t, p.cert)}}
	secret, err := p.Images(t.Context())
	must(t, err)
	hidden := ""
	for _, img := range secret {
		if strings.Contains(img.Name, "/secret/") {
			hidden = img.Digest
		}
	}
	at := "/v2/team/prog/manifests/" + manifest
	for _, try := range []struct {
		by           *http.Client
		method, path string
		want         int
	}{
		{p.http, "GET", at, 200}, {p.http, "HEAD", at, 200},
		{stranger, "GET", at, 401}, {guest, "GET", at, 401}, {stranger, "GET", "/metrics", 401},
		{p.http, "PUT", at, 405}, {p.http, "DELETE", at, 405}, {p.http, "POST", "/v2/team/prog/blobs/uploads/", 405},
		{p.http, "GET", "/v2/team/prog/manifests/1", 404}, {p.http, "GET", "/v2/team/prog/tags/list", 404},
		{p.http, "GET", "/v2/_catalog", 404}, {p.http, "GET", "/v2/team/prog/referrers/" + manifest, 404},
		{p.http, "GET", "/v2/team/prog/blobs/" + manifest, 404}, // a manifest is none
		{p.http, "GET", "/v2/secret/prog/manifests/" + hidden, 404}, {p.http, "GET", "/v2/team/prog/manifests/" + hidden, 404},
		{p.http, "GET", "/v2/other/prog/manifests/" + manifest, 404},
		{p.http, "GET", "/v2/team/../secret/prog/manifests/" + hidden, 404},
		{p.http, "GET", "/v2/team/prog/blobs/sha256:../../../../../etc/passwd", 404},
		{p.http, "GET", "/v2/team/prog/blobs/..%2f..%2findex.json", 404}, {p.http, "GET", "/v2/team/prog/blobs/", 404},
		{p.http, "GET", "/v2/" + strings.Repeat("a/", 4000) + "manifests/" + manifest, 404}, {p.http, "GET", "//etc/passwd", 404},
		{p.http, "GET", "/", 404},
	} {
		if status, text := p.get(t, try.by, try.method, try.path); status != try.want {
			t.Errorf("%s %.80s: %d %s, want %d", try.method, try.path, status, text, try.want)
		}
	}
	if hidden == "" {
		t.Error("the image that is not given is not there")
	}
}

// A mirror that is at its limit, or ends amid a transfer, has the registry give the rest; and those who hold on to what
// they asked for keep nobody else away.
func TestMirrorUnderLoad(t *testing.T) {
	r := newRemote(t, "")
	spec := greeter
	spec.Zeros = map[string]int64{"/large": 64 << 20}
	want := r.push(t, "", "team/prog:1", spec)
	a := newPeer(t, r.config(""), fmt.Sprintf("  images = [\"%s/**\"]\n  transfers = 1", r.host))
	_, err := a.Pull(t.Context(), client.PullRequest{Ref: r.host + "/team/prog:1"}, nil)
	must(t, err)
	_, text := a.get(t, a.http, "GET", "/v2/team/prog/manifests/"+want)
	var m ocispec.Manifest
	must(t, json.Unmarshal([]byte(text), &m))
	layer := "/v2/team/prog/blobs/" + m.Layers[0].Digest.String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.at+layer, nil)
	must(t, err)
	slow, err := a.http.Do(req)
	must(t, err)
	defer slow.Body.Close()
	resp, err := a.http.Get("https://" + a.at + layer)
	must(t, err)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a second transfer: %s %v", resp.Status, resp.Header)
	}
	must(t, resp.Body.Close())
	if status, _ := a.get(t, a.http, "HEAD", layer); status != 200 {
		t.Errorf("HEAD meanwhile: %d", status)
	}
	// Connections that ask for nothing, more than the server keeps.
	for range 400 {
		c, err := net.DialTimeout("tcp", a.at, time.Minute)
		must(t, err)
		defer c.Close()
	}
	if status, _ := a.get(t, a.http, "HEAD", layer); status != 200 {
		t.Errorf("HEAD in a crowd: %d", status)
	}
	b, _ := daemonAt(t, shortDir(t), a.other(t, r))
	if got, err := b.Pull(t.Context(), client.PullRequest{Ref: r.host + "/team/prog:1"}, nil); err != nil || got.Digest != want {
		t.Errorf("while the mirror is busy: %+v %v", got, err)
	}
}

// Of another version of an image a mirror gives what differs.
func TestMirrorGivesParts(t *testing.T) {
	r := newRemote(t, "")
	a := newPeer(t, r.config(""), fmt.Sprintf("  images = [\"%s/**\"]", r.host))
	b, _ := daemonAt(t, shortDir(t), a.other(t, r))
	spec := greeter
	spec.Chunked = true
	sent := 0.0
	for v := range 2 {
		spec.Files = map[string]string{"/etc/version": fmt.Sprint(v)}
		r.push(t, "", fmt.Sprint("team/prog:", v), spec)
		ref := client.PullRequest{Ref: fmt.Sprintf("%s/team/prog:%d", r.host, v)}
		_, err := a.Pull(t.Context(), ref, nil)
		must(t, err)
		got, err := b.Pull(t.Context(), ref, nil)
		must(t, err)
		before := sent
		if sent = a.metric(t, "freejail_mirror_sent_bytes_total"); v == 1 &&
			(got.Reused < got.Size/2 || sent == before || sent-before > float64(got.Size)/10) {
			t.Errorf("the mirror has sent %v of %d bytes, and %d were reused", sent-before, got.Size, got.Reused)
		}
		if len(got.Sources) != 1 || got.Sources[0].Host != a.at || !got.Sources[0].Mirror ||
			float64(got.Sources[0].Bytes) > sent-before {
			t.Errorf("it came from %+v", got.Sources)
		}
	}
}

// A mirror that ends amid a transfer has the registry give the rest.
func TestMirrorThatEnds(t *testing.T) {
	r := newRemote(t, "")
	spec := greeter
	spec.Zeros = map[string]int64{"/large": 96 << 20}
	want := r.push(t, "", "team/prog:1", spec)
	a := newPeer(t, r.config(""), fmt.Sprintf("  images = [\"%s/**\"]\n  rate = \"8MiB\"", r.host))
	_, err := a.Pull(t.Context(), client.PullRequest{Ref: r.host + "/team/prog:1"}, nil)
	must(t, err)
	b, _ := daemonAt(t, shortDir(t), a.other(t, r))
	var once sync.Once
	ended := make(chan struct{})
	got, err := b.Pull(t.Context(), client.PullRequest{Ref: r.host + "/team/prog:1"}, func(p client.ImageProgress) {
		if p.Done > 1<<20 {
			once.Do(func() {
				if a.metric(t, "freejail_mirror_transfers") < 1 {
					t.Error("it comes from elsewhere")
				}
				go func() {
					a.end()
					close(ended)
				}()
			})
		}
	})
	if err != nil || got.Digest != want {
		t.Errorf("got %+v, %v", got, err)
	}
	<-ended
}
