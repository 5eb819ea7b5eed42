package registry

import (
	"bytes"
	"fmt"
	"math/rand"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/chunked"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

// files are many that do not compress; of another version one is another.
func files(version int) []testoci.Item {
	var out []testoci.Item
	for i := range 200 {
		seed := int64(i)
		if i == 77 {
			seed = int64(1000 * version)
		}
		b := make([]byte, 1000+i*100)
		rand.New(rand.NewSource(seed)).Read(b)
		out = append(out, testoci.File(fmt.Sprint("f", i), string(b)))
	}
	return out
}

// chunkedLayer makes a layer in zstd:chunked; old is the spelling of its annotations.
func chunkedLayer(t testing.TB, old bool, items []testoci.Item) ([]byte, ocispec.Descriptor, digest.Digest) {
	t.Helper()
	b := testoci.Tar(t, items...)
	var out bytes.Buffer
	w, err := chunked.NewWriter(&out)
	check(t, err)
	_, err = w.Write(b)
	check(t, err)
	check(t, w.Close())
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Size: int64(out.Len()),
		Digest: digest.FromBytes(out.Bytes()), Annotations: w.Annotations()}
	if old {
		d.Annotations = map[string]string{}
		for k, v := range w.Annotations() {
			d.Annotations[strings.Replace(k, "io.github.", "io.", 1)] = v
		}
	}
	return out.Bytes(), d, digest.FromBytes(b)
}

// pushChunked pushes an image of one such layer, whose descriptor may be changed before.
func pushChunked(t testing.TB, r *registryHost, at string, items []testoci.Item, old bool,
	change func(b []byte, d *ocispec.Descriptor)) ocispec.Descriptor {
	t.Helper()
	s := newStore(t)
	b, d, diff := chunkedLayer(t, old, items)
	if change != nil {
		change(b, &d)
	}
	check(t, s.PutBlob(ctx, d, bytes.NewReader(b)))
	_, err := s.Put(ctx, "made", ocispec.Image{Platform: host,
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}}}, []ocispec.Descriptor{d}, nil)
	check(t, err)
	_, err = client(t, r).Copy(ctx, loc(t, "oci:"+layoutOf(t, s, "made")), loc(t, r.host+"/"+at), CopyOptions{})
	check(t, err)
	return d
}

// meter counts what a registry gives of blobs.
type meter struct{ bytes, requests atomic.Int64 }

func (m *meter) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			m.requests.Add(1)
			w = &metered{w, &m.bytes}
		}
		h.ServeHTTP(w, r)
	})
}

type metered struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (m *metered) Write(b []byte) (int, error) {
	m.n.Add(int64(len(b)))
	return m.ResponseWriter.Write(b)
}

// pulled pulls an image, and tells what was said of its progress last.
func pulled(t testing.TB, s *layout.Store, c *Client, name string, o PullOptions) (last image.Progress, told []string) {
	t.Helper()
	o.Progress = func(p image.Progress) { last = p }
	o.Tell = func(text string) { told = append(told, text) }
	img, err := c.Pull(ctx, s, ref(t, name), o)
	check(t, err)
	for _, l := range img.Layers { // it is as it should be, whatever was told
		b, err := s.OpenBlob(l.Digest)
		check(t, err)
		got, err := digest.FromReader(b)
		check(t, err)
		if check(t, b.Close()); got != l.Digest {
			t.Errorf("the layer %s is %s", l.Digest, got)
		}
	}
	return last, told
}

// Of another version of an image the host fetches what differs, whoever has spelt its annotations, and from a mirror too.
func TestPullOfWhatDiffers(t *testing.T) {
	for _, old := range []bool{false, true} {
		m := &meter{}
		r := serve(t, ServerOptions{}, m.wrap)
		pushChunked(t, r, "team/web:1", files(1), old, nil)
		d := pushChunked(t, r, "team/web:2", files(2), !old, nil)
		s, c := newStore(t), client(t, r)
		if first, _ := pulled(t, s, c, r.host+"/team/web:1", PullOptions{}); first.Reused != 0 {
			t.Errorf("of the first %d bytes were here", first.Reused)
		}
		m.bytes.Store(0)
		m.requests.Store(0)
		last, told := pulled(t, s, c, r.host+"/team/web:2", PullOptions{})
		if n := m.bytes.Load(); n > 60_000 || m.requests.Load() > 4 { // the config, the table, the file
			t.Errorf("%d bytes of %d were fetched, with %d requests", n, d.Size, m.requests.Load())
		}
		if last.Done != d.Size || last.Size != d.Size || last.Reused < d.Size-60_000 || last.Reused >= d.Size ||
			len(told) > 0 {
			t.Errorf("told were %+v, %v", last, told)
		}
		if got := contentOf(t, s, r.host+"/team/web:2"); len(got) != 200 {
			t.Errorf("it unpacks to %d files", len(got))
		}
	}
}

// A registry that gives no parts gives the whole, which is told.
func TestPullWithoutRanges(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request) (done bool){
		"all": func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false },
		"416": func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		},
		"another part": func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Set("Range", "bytes=5-500")
			return false
		},
		"several parts": func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Set("Range", "bytes=5-500,600-900")
			return false
		},
		"refused": func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true },
	} {
		t.Run(name, func(t *testing.T) {
			impatient(t)
			from := int64(0) // the first so many parts are given
			m := &meter{}
			part := atomic.Int64{}
			r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
				return m.wrap(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Header.Get("Range") == "" || part.Add(1) <= from || !answer(w, req) {
						h.ServeHTTP(w, req)
					}
				}))
			})
			pushChunked(t, r, "team/web:1", files(1), false, nil)
			d := pushChunked(t, r, "team/web:2", files(2), false, nil)
			for from = range int64(2) { // the table is given, what differs is not
				s, c := newStore(t), client(t, r)
				pulled(t, s, c, r.host+"/team/web:1", PullOptions{})
				part.Store(0)
				m.bytes.Store(0)
				last, told := pulled(t, s, c, r.host+"/team/web:2", PullOptions{})
				if len(told) != 1 || !strings.Contains(told[0], "fetched as a whole") {
					t.Errorf("after %d parts: told was %q", from, told)
				}
				if n := m.bytes.Load(); n > d.Size+100_000 || last.Done != d.Size {
					t.Errorf("after %d parts: %d bytes of %d were fetched; told was %+v", from, n, d.Size, last)
				}
			}
		})
	}
}

// What breaks amid a plan goes on, and what fails there is kept for the next pull.
func TestPullOfWhatDiffersBreaks(t *testing.T) {
	impatient(t)
	attempts = 2
	var fail atomic.Bool
	m := &meter{}
	r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return m.wrap(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			var from, to int64
			if n, _ := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to); fail.Load() && n == 2 &&
				to < 3_000_000 { // not the table
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, req)
		}))
	})
	later := files(2)
	later[190] = testoci.File("f190", strings.Repeat("other", 1000))
	pushChunked(t, r, "team/web:1", append(files(1), files(3)...), false, nil)
	d := pushChunked(t, r, "team/web:2", append(files(1), later...), false, nil)
	s, c := newStore(t), client(t, r)
	pulled(t, s, c, r.host+"/team/web:1", PullOptions{})
	fail.Store(true)
	m.bytes.Store(0)
	if _, err := c.Pull(ctx, s, ref(t, r.host+"/team/web:2"), PullOptions{}); err == nil {
		t.Fatal("the pull did not fail")
	}
	fail.Store(false)
	var first image.Progress
	_, err := c.Pull(ctx, s, ref(t, r.host+"/team/web:2"), PullOptions{FetchOptions: layout.FetchOptions{
		Progress: func(p image.Progress) {
			if first.Done == 0 {
				first = p
			}
		}}})
	if err != nil || first.Done < 2_000_000 { // all before the part that failed
		t.Errorf("the second pull: %v; it went on from %d", err, first.Done)
	}
	if n := m.bytes.Load(); n > 300_000 {
		t.Errorf("%d bytes of %d were fetched in all", n, d.Size)
	}
}

// Connections that break after each 30,000 bytes do not matter.
func TestPullOfWhatDiffersResumes(t *testing.T) {
	impatient(t)
	r := serve(t, ServerOptions{}, nil)
	pushChunked(t, r, "team/web:1", files(1), false, nil)
	pushChunked(t, r, "team/web:2", append(files(2), files(5)[:50]...), false, nil)
	s := newStore(t)
	pulled(t, s, client(t, r), r.host+"/team/web:1", PullOptions{})
	headway = 10_000
	t.Cleanup(func() { headway = 64 << 10 })
	breakable := breaking(30_000, true)(r.srv)
	r.Server.Config.Handler = breakable
	if last, told := pulled(t, s, client(t, r), r.host+"/team/web:2", PullOptions{}); last.Reused == 0 || len(told) > 0 {
		t.Errorf("told were %+v, %v", last, told)
	}
}

// A mirror gives parts, and one that gives others than those of the blob costs the whole, once more from elsewhere.
func TestPullOfWhatDiffersFromMirrors(t *testing.T) {
	impatient(t)
	own := serve(t, ServerOptions{}, nil)
	lies := false
	mirror := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lies && strings.Contains(r.URL.Path, "/blobs/") && !strings.HasSuffix(r.Header.Get("Range"), "-") &&
				r.Header.Get("Range") != "" {
				w = &lying{w}
			}
			h.ServeHTTP(w, r)
		})
	})
	for _, r := range []*registryHost{own, mirror} {
		for v := 1; v < 4; v++ {
			pushChunked(t, r, fmt.Sprintf("team/web:%d", v), files(v), false, nil)
		}
	}
	c := client(t, Host{Name: own.host, PlainHTTP: true, Mirrors: []string{mirror.host}},
		Host{Name: mirror.host, PlainHTTP: true})
	s := newStore(t)
	pulled(t, s, c, own.host+"/team/web:1", PullOptions{})
	if last, _ := pulled(t, s, c, own.host+"/team/web:2", PullOptions{}); last.Reused == 0 {
		t.Errorf("told was %+v", last)
	}
	if n := len(own.requests("GET /v2/team/web/blobs/")); n > 0 {
		t.Errorf("the registry was asked %d times", n)
	}
	lies = true
	last, told := pulled(t, s, c, own.host+"/team/web:3", PullOptions{})
	if len(told) != 2 || !strings.Contains(told[0], "fetched as a whole") || last.Reused != 0 {
		t.Errorf("told were %+v, %v", last, told)
	}
}

type lying struct{ http.ResponseWriter }

func (l *lying) Write(b []byte) (int, error) {
	return l.ResponseWriter.Write(bytes.Repeat([]byte{'x'}, len(b)))
}
