package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
)

// breaking cuts every answer with a blob off after so many bytes; ranges says
// whether it takes requests for the rest.
func breaking(after int64, ranges bool) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
				h.ServeHTTP(w, r)
				return
			}
			if !ranges {
				r.Header.Del("Range")
			}
			h.ServeHTTP(&cutting{ResponseWriter: w, left: after}, r)
		})
	}
}

type cutting struct {
	http.ResponseWriter
	left int64
}

func (c *cutting) Write(b []byte) (int, error) {
	if int64(len(b)) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= int64(len(b))
	return c.ResponseWriter.Write(b)
}

func TestResume(t *testing.T) {
	impatient(t)
	r, img := pushed(t, ServerOptions{}, breaking(100_000, true))
	s := newStore(t)
	var last image.Progress
	got, err := client(t, r).Pull(ctx, s, ref(t, r.host+"/team/web:1"),
		PullOptions{FetchOptions: layout.FetchOptions{Progress: func(p image.Progress) { last = p }}})
	if err != nil || got.Digest != img.Digest {
		t.Fatalf("got %+v, %v", got, err)
	}
	if last.Layers != 3 || last.LayersDone != 3 || last.Done != last.Size || last.Size != img.Size {
		t.Errorf("the last that was told is %+v; the image has %d bytes", last, img.Size)
	}
	whole, resumed := 0, 0
	for _, q := range r.requests("GET /v2/team/web/blobs/") {
		if strings.Contains(q, "bytes=") {
			resumed++
		} else {
			whole++
		}
	}
	if whole > 7 || resumed < 3 { // a reset can take what had arrived with it
		t.Errorf("%d blobs were begun and %d times resumed", whole, resumed)
	}
	if files := contentOf(t, s, got.Name); len(files) != 3 {
		t.Errorf("got the files %v", files)
	}
}

// A registry without ranges gives the beginning again, which is passed over.
func TestResumeWithoutRanges(t *testing.T) {
	impatient(t)
	var n atomic.Int64
	r, img := pushed(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			breaking(min(400_000, 50_000*n.Add(1)), false)(h).ServeHTTP(w, req)
		})
	})
	got, err := client(t, r).Pull(ctx, newStore(t), ref(t, r.host+"/team/web:1"), PullOptions{})
	if err != nil || got.Digest != img.Digest {
		t.Fatalf("got %+v, %v", got, err)
	}
}

// What a broken pull got is used by the next process.
func TestResumeAfterRestart(t *testing.T) {
	impatient(t)
	attempts = 1
	var whole atomic.Bool
	r, img := pushed(t, ServerOptions{}, func(h http.Handler) http.Handler {
		cut := breaking(60_000, true)(h)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if whole.Load() {
				h.ServeHTTP(w, req)
			} else {
				cut.ServeHTTP(w, req)
			}
		})
	})
	c, dir, name := client(t, r), t.TempDir(), ref(t, r.host+"/team/web:1")
	s, err := layout.OpenStore(dir, image.Limits{})
	check(t, err)
	if _, err := c.Pull(ctx, s, name, PullOptions{}); err == nil {
		t.Fatal("the pull did not break")
	}
	kept, err := os.ReadDir(filepath.Join(dir, "partial"))
	if check(t, err); len(kept) == 0 {
		t.Fatal("nothing was kept")
	}
	// One of them was damaged by a crash of the host.
	damaged := filepath.Join(dir, "partial", kept[0].Name())
	check(t, os.WriteFile(damaged, []byte("not what was there"), 0o600))
	whole.Store(true)
	before := len(r.requests("GET /v2/team/web/blobs/"))
	if s, err = layout.OpenStore(dir, image.Limits{}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Pull(ctx, s, name, PullOptions{})
	if err != nil || got.Digest != img.Digest {
		t.Fatalf("got %+v, %v", got, err)
	}
	if again := r.requests("GET /v2/team/web/blobs/")[before:]; !strings.Contains(strings.Join(again, "\n"), "bytes=") {
		t.Errorf("everything was fetched anew: %v", again)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "partial")); len(left) != 0 {
		t.Errorf("%d partial downloads are left", len(left))
	}
}

func TestPartialsAreSwept(t *testing.T) {
	dir := t.TempDir()
	s, err := layout.OpenStore(dir, image.Limits{})
	check(t, err)
	check(t, os.Mkdir(filepath.Join(dir, "partial"), 0o700))
	for name, age := range map[string]time.Duration{strings.Repeat("a", 64): 2 * time.Hour,
		strings.Repeat("b", 64): time.Minute} {
		p := filepath.Join(dir, "partial", name)
		check(t, os.WriteFile(p, []byte("half"), 0o600))
		check(t, os.Chtimes(p, time.Time{}, time.Now().Add(-age)))
	}
	freed, err := s.GC(ctx) // by hand: nothing is wanted back of any age
	left, _ := os.ReadDir(filepath.Join(dir, "partial"))
	if err != nil || freed != 8 || len(left) != 0 {
		t.Errorf("freed %d, left %v, %v", freed, left, err)
	}
}

// Pulls of one image wait for each other: each layer is fetched once.
func TestConcurrentPulls(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c, s := client(t, r), newStore(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := c.Pull(ctx, s, ref(t, r.host+"/team/web:1"), PullOptions{}); err != nil ||
				got.Digest != img.Digest {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	for _, l := range img.Layers {
		if n := len(r.requests("GET /v2/team/web/blobs/" + l.Digest.String())); n != 1 {
			t.Errorf("layer %s was fetched %d times", l.Digest, n)
		}
	}
	// One who gives up does not take the download from one who waits.
	s = newStore(t)
	short, cancel := context.WithCancel(ctx)
	wg.Go(func() {
		_, _ = c.Pull(short, s, ref(t, r.host+"/team/web:1"),
			PullOptions{FetchOptions: layout.FetchOptions{Progress: func(image.Progress) { cancel() }}})
	})
	wg.Go(func() {
		if _, err := c.Pull(ctx, s, ref(t, r.host+"/team/web:1"), PullOptions{}); err != nil {
			t.Errorf("the other pull: %v", err)
		}
	})
	wg.Wait()
}

// Attacks of a registry: each in one place of an otherwise good one.
func TestHostileRegistries(t *testing.T) {
	impatient(t)
	attempts = 2
	blob := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	}
	byTag := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/1")
	}
	const other = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	answer := func(mediaType, digest, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			if digest != "" {
				w.Header().Set("Docker-Content-Digest", digest)
			}
			_, _ = io.WriteString(w, body)
		}
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 4000 && r.Context().Err() == nil; i++ {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	indexType := "application/vnd.oci.image.index.v1+json"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[]}`,
		ocispec.MediaTypeImageConfig, digest.FromString("{}"))
	docker := strings.Replace(manifest, "{", `{"mediaType":"`+document.DockerManifest+`",`, 1)
	bomb := `{"schemaVersion":2,"manifests":[` + strings.Repeat(fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":100},`,
		indexType, someDigest), 200_000)
	for name, c := range map[string]struct {
		when func(*http.Request) bool
		do   http.HandlerFunc
		want string
	}{
		"another content": {blob, func(w http.ResponseWriter, _ *http.Request) {
			_,
				_ = io.WriteString(w, "nonsense")
		}, ""},
		"endless blob": {blob, endless, "longer than"},
		"endless manifest": {byTag, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type",
				indexType)
			endless(w, r)
		}, ""},
		"manifest's digest": {byTag, answer(indexType, someDigest, other), "the manifest 1"},
		"a huge length": {byTag, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", indexType)
			w.Header().Set("Content-Length", "99999999999")
			w.Header().Set("Docker-Content-Digest", someDigest)
		}, "at most"},
		"index bomb":           {byTag, answer(indexType, "", bomb), ""},
		"empty index":          {byTag, answer(indexType, "", other), "names no image"},
		"no JSON":              {byTag, answer(indexType, "", "<html>"), "neither an image manifest"},
		"manifest as an index": {byTag, answer(indexType, "", manifest), "image config"},
		"both kinds": {byTag, answer(document.DockerManifest, "", strings.TrimSuffix(manifest, "}")+
			`,"manifests":[]}`), "of another kind"},
		"a type that is not its own": {byTag, answer(document.DockerManifest, "",
			strings.Replace(other, "oci.image.index", "docker.distribution.manifest.v1", 1)), "the document says"},
		"a type that is not the list's": {func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/")
		}, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/1") {
				answer(indexType, "",
					fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
						ocispec.MediaTypeImageManifest, digest.FromString(docker), len(docker)))(w, r)
			} else {
				answer(document.DockerManifest, "", docker)(w, r)
			}
		}, "the index"},
		"not an image": {byTag, answer("text/html", "", "<html>"), "neither an image manifest nor an index"},
		"redirect loop": {blob, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		}, "redirects"},
		"another part": {func(r *http.Request) bool { return blob(r) && r.Header.Get("Range") != "" },
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
			}, ""},
		"control characters": {byTag, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"errors":[{"code":"X","message":"\u001b[2Jgone"}]}`)
		}, `\u001b[2Jgone`},
		"manifest is exchanged": {byTag, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", indexType)
			w.Header().Set("Docker-Content-Digest", someDigest)
			w.Header().Set("Content-Length", strconv.Itoa(len(other)))
			_, _ = io.WriteString(w, other)
		}, "the manifest 1"},
	} {
		t.Run(name, func(t *testing.T) {
			on := atomic.Bool{}
			r, _ := pushed(t, ServerOptions{}, func(h http.Handler) http.Handler {
				if name == "another part" {
					h = breaking(1000, true)(h)
				}
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if on.Load() && c.when(r) {
						c.do(w, r)
					} else {
						h.ServeHTTP(w, r)
					}
				})
			})
			on.Store(true)
			s := newStore(t)
			img, err := client(t, r).Pull(ctx, s, ref(t, r.host+"/team/web:1"), PullOptions{})
			if err == nil {
				t.Fatalf("it was taken: %+v", img)
			}
			wantError(t, err, c.want)
			if strings.ContainsRune(err.Error(), '\x1b') || len(err.Error()) > maxErrorText+200 {
				t.Errorf("the error is not fit for a terminal: %q", err)
			}
			if have, lerr := list(s); len(have) > 0 || lerr != nil {
				t.Errorf("the store has %v, %v", have, lerr)
			}
		})
	}
}

// A connection that stands still is given up, and taken up again.
func TestStall(t *testing.T) {
	impatient(t)
	stall = 50 * time.Millisecond
	var once sync.Once
	r, _ := pushed(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				once.Do(func() {
					w.Header().Set("Content-Length", "300")
					_, _ = w.Write(make([]byte, 0))
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
				})
			}
			h.ServeHTTP(w, r)
		})
	})
	_, err := client(t, r).Pull(ctx, newStore(t), ref(t, r.host+"/team/web:1"), PullOptions{})
	check(t, err)
}

func TestMirrors(t *testing.T) {
	origin, img := pushed(t, ServerOptions{}, nil)
	mirror := serve(t, ServerOptions{}, nil)
	plain := client(t, origin, mirror)
	name := ref(t, origin.host+"/team/web:1")
	c := client(t, mirror, Host{Name: origin.host, PlainHTTP: true, Mirrors: []string{mirror.host + "/cache"}})

	// A mirror that has nothing is passed over.
	_, err := c.Pull(ctx, newStore(t), name, PullOptions{})
	check(t, err)
	_, err = plain.Copy(ctx, Location{Kind: Remote, Ref: name}, loc(t, mirror.host+"/cache/team/web:1"), CopyOptions{})
	check(t, err)
	before := len(origin.requests("GET"))
	var sources []Source
	got, err := c.Pull(ctx, newStore(t), name, PullOptions{Sources: func(list []Source) { sources = list }})
	if err != nil || got.Digest != img.Digest || got.Name != origin.host+"/team/web:1" {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(sources) != 1 || sources[0].Host != mirror.host || !sources[0].Mirror || sources[0].Bytes < 1000 ||
		sources[0].PassedOver != "" {
		t.Errorf("it came from %+v", sources)
	}
	for _, q := range origin.requests("GET")[before:] {
		if strings.Contains(q, "/blobs/") || strings.HasSuffix(q, "/manifests/1 ") {
			t.Errorf("the origin was asked though the mirror has it: %s", q)
		}
	}
	// A mirror that has lost a layer is helped out by the origin.
	lost := filepath.Join(mirror.dir, "cache+team+web", "blobs", "sha256", img.Layers[0].Digest.Encoded())
	check(t, os.Remove(lost))
	_, err = c.Pull(ctx, newStore(t), name, PullOptions{})
	check(t, err)
}

// A mirror that gives something else for a blob is passed over for that blob.
func TestMirrorThatLies(t *testing.T) {
	origin, img := pushed(t, ServerOptions{}, nil)
	mirror, target := serve(t, ServerOptions{}, nil), serve(t, ServerOptions{}, nil)
	name := ref(t, origin.host+"/team/web:1")
	_, err := client(t, origin, mirror).Copy(ctx, Location{Kind: Remote, Ref: name},
		loc(t, mirror.host+"/cache/team/web:1"), CopyOptions{})
	check(t, err)
	blobs, err := filepath.Glob(filepath.Join(mirror.dir, "cache+team+web", "blobs", "sha256", "*"))
	check(t, err)
	for _, path := range blobs {
		if filepath.Base(path) == img.Digest.Encoded() {
			continue
		}
		fi, err := os.Stat(path)
		check(t, err)
		check(t, os.WriteFile(path, make([]byte, fi.Size()), 0o644))
	}
	c := client(t, mirror, target, Host{Name: origin.host, PlainHTTP: true, Mirrors: []string{mirror.host + "/cache"}})
	var sources []Source
	got, err := c.Pull(ctx, newStore(t), name, PullOptions{Sources: func(list []Source) { sources = list }})
	if err != nil || got.Digest != img.Digest {
		t.Errorf("pull: got %+v, %v", got, err)
	}
	if len(sources) != 2 || !strings.Contains(sources[0].PassedOver, "not asked for") || sources[1].Bytes == 0 {
		t.Errorf("it came from %+v", sources)
	}
	for _, to := range []string{"oci:" + t.TempDir() + "/layout:1", "oci-archive:" + t.TempDir() + "/a.tar:1",
		target.host + "/team/web:1"} {
		if _, err := c.Copy(ctx, Location{Kind: Remote, Ref: name}, loc(t, to), CopyOptions{}); err != nil {
			t.Errorf("copy to %s: %v", to, err)
		}
	}
	// Without the origin that blob is not to be had.
	lying := client(t, mirror)
	_, err = lying.Pull(ctx, newStore(t), ref(t, mirror.host+"/cache/team/web:1"), PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("got %v", err)
	}
}
