package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

var ctx = context.Background()

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error %q does not have %q in it", err, p)
		}
	}
}

func newStore(t testing.TB) *layout.Store {
	t.Helper()
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	return s
}

// impatient makes retries quick.
func impatient(t *testing.T) {
	a, b, s, r, c := attempts, backoff, stall, minRate, chunkSize
	t.Cleanup(func() { attempts, backoff, stall, minRate, chunkSize = a, b, s, r, c })
	backoff, chunkSize = time.Millisecond, 100_000
}

// layer is a tar of one file with a size of random-looking content.
func layer(t testing.TB, name string, size int) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	body := make([]byte, 0, size+32)
	for i := 0; len(body) < size; i++ {
		body = append(body, digest.FromString(fmt.Sprint(name, i)).Encoded()...)
	}
	check(t, tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}))
	_, err := tw.Write(body[:size])
	check(t, err)
	check(t, tw.Close())
	return buf.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	check(t, err)
	check(t, w.Close())
	return buf.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	check(t, err)
	return w.EncodeAll(b, nil)
}

// putImage makes an image for a platform; the layers are plain, gzip and zstd
// in turn.
func putImage(t testing.TB, s *layout.Store, name string, p ocispec.Platform, layers ...[]byte) *image.Image {
	t.Helper()
	cfg := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	cfg.Config.Cmd = []string{"/" + name}
	var list []ocispec.Descriptor
	for i, l := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		mediaType := ocispec.MediaTypeImageLayer
		switch i % 3 {
		case 1:
			mediaType, l = ocispec.MediaTypeImageLayerGzip, gz(t, l)
		case 2:
			mediaType, l = ocispec.MediaTypeImageLayerZstd, zst(t, l)
		}
		d, err := s.Add(ctx, mediaType, bytes.NewReader(l))
		check(t, err)
		list = append(list, d)
	}
	img, err := s.Put(ctx, name, cfg, list, nil)
	check(t, err)
	return img
}

var host = ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}

// layoutOf writes an image of a store as a layout and returns its directory.
func layoutOf(t testing.TB, s *layout.Store, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	check(t, s.WriteLayout(ctx, name, dir))
	return dir
}

// someImage is a layout with an image of three layers.
func someImage(t testing.TB) (dir string, img *image.Image) {
	t.Helper()
	s := newStore(t)
	img = putImage(t, s, "web", host, layer(t, "a", 300_000), layer(t, "b", 200_000), layer(t, "c", 100_000))
	return layoutOf(t, s, "web"), img
}

// indexOf writes a layout that has one index of the images of a store.
func indexOf(t testing.TB, s *layout.Store, name string, images ...*image.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "index")
	l, err := layout.Make(dir)
	check(t, err)
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, img := range images {
		sub, err := layout.Open(layoutOf(t, s, img.Name))
		check(t, err)
		own, err := sub.Index()
		check(t, err)
		blobs, err := sub.Blobs()
		check(t, err)
		for _, b := range blobs {
			check(t, l.LinkBlob(sub, digest.NewDigestFromEncoded(digest.SHA256, b.Name())))
		}
		d := own.Manifests[0]
		d.Annotations = nil
		d.Platform = &img.Config.Platform
		idx.Manifests = append(idx.Manifests, d)
		check(t, sub.Close())
	}
	b, err := json.Marshal(idx)
	check(t, err)
	d := ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	check(t, l.PutBlob(ctx, d, bytes.NewReader(b)))
	check(t, l.Tag(d, name))
	check(t, l.Close())
	return dir
}

// registryHost is a registry of ours, behind a handler that may do harm.
type registryHost struct {
	*httptest.Server
	host string
	dir  string
	srv  *Server

	mu   sync.Mutex
	seen []string // requests
}

// serve starts a registry; wrap may be nil.
func serve(t testing.TB, o ServerOptions, wrap func(http.Handler) http.Handler) *registryHost {
	t.Helper()
	r := &registryHost{dir: t.TempDir()}
	var err error
	r.srv, err = NewServer(r.dir, o)
	check(t, err)
	var h http.Handler = r.srv
	if wrap != nil {
		h = wrap(h)
	}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, req.Method+" "+req.URL.Path+" "+req.Header.Get("Range"))
		r.mu.Unlock()
		h.ServeHTTP(w, req)
	}))
	r.host = strings.TrimPrefix(r.URL, "http://")
	t.Cleanup(func() { r.Server.Close(); check(t, r.srv.Close()) })
	return r
}

func (r *registryHost) requests(prefix string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		if strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}

// client speaks plain HTTP with these registries.
func client(t testing.TB, hosts ...any) *Client {
	t.Helper()
	var cfg Config
	for _, h := range hosts {
		switch h := h.(type) {
		case *registryHost:
			cfg.Hosts = append(cfg.Hosts, Host{Name: h.host, PlainHTTP: true})
		case Host:
			cfg.Hosts = append(cfg.Hosts, h)
		}
	}
	c, err := NewClient(cfg)
	check(t, err)
	return c
}

func ref(t testing.TB, s string) Reference {
	t.Helper()
	r, err := ParseReference(s)
	check(t, err)
	return r
}

func loc(t testing.TB, s string) Location {
	t.Helper()
	l, err := ParseLocation(s)
	check(t, err)
	return l
}

// pushed is a registry with an image in it, as team/web:1.
func pushed(t *testing.T, o ServerOptions, wrap func(http.Handler) http.Handler) (*registryHost, *image.Image) {
	t.Helper()
	r := serve(t, o, wrap)
	dir, img := someImage(t)
	_, err := client(t, r).Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/team/web:1"), CopyOptions{})
	check(t, err)
	return r, img
}

// contentOf is what an image unpacks to.
func contentOf(t testing.TB, s *layout.Store, name string) map[string]digest.Digest {
	t.Helper()
	img, err := s.Get(name)
	check(t, err)
	dir := filepath.Join(t.TempDir(), "root")
	check(t, os.Mkdir(dir, 0o755))
	check(t, unpack.Image(ctx, s, img, dir, nil))
	out := map[string]digest.Digest{}
	check(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		out[strings.TrimPrefix(p, dir)] = digest.FromBytes(b)
		return err
	}))
	return out
}

// list are all images of a store.
func list(s *layout.Store) (out []*image.Image, errs error) {
	for img, err := range s.All() {
		if errs = errors.Join(errs, err); err == nil {
			out = append(out, img)
		}
	}
	return out, errs
}
