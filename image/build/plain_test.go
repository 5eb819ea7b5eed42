package build

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

// decompressed tells whether the last build has decompressed a layer into the cache.
func (c *cachedBuild) decompressed() bool {
	return strings.Contains(strings.Join(c.said, "\n"), "decompressing layer")
}

// A large layer of a base is decompressed once, and the image is the same as without a cache.
func TestLargeLayersAreDecompressedOnce(t *testing.T) {
	content := make([]byte, 2*plainSize)
	rand.NewChaCha8([32]byte{}).Read(content)
	c := newCachedBuild(t, files{"large": string(content), "etc/passwd": "joe:x:77:77::/:\n", "a": "1",
		".jailignore": "base.tar\n"})
	c.options.Platform = ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	c.build("FROM scratch\nCOPY large etc/passwd /\nCOPY etc /etc/\n")
	if c.decompressed() {
		t.Error("a layer was decompressed that nobody reads")
	}
	o := c.options
	o.Context, o.Output = c.dir, filepath.Join(c.dir, "base.tar")
	_, err := Build(t.Context(), o)
	check(t, err)

	lines := "FROM base.tar\nCOPY --chown=joe a /b/\n"
	if os.Geteuid() == 0 {
		lines += "RUN [\"x\", \"7\"]\n"
		c.options.Runner = func(string) (Runner, error) { return changing{t, 1}, nil }
	}
	lines += "COPY --from=base.tar large /again\n"
	c.want(lines)
	if !c.decompressed() {
		t.Errorf("nothing was decompressed:\n%s", strings.Join(c.said, "\n"))
	}
	again := func(what string, want bool) {
		t.Helper()
		check(t, os.WriteFile(c.dir+"/a", []byte(what), 0o644))
		c.want(lines)
		if c.decompressed() != want {
			t.Errorf("%s: decompressed: %v, want %v:\n%s", what, !want, want, strings.Join(c.said, "\n"))
		}
	}
	again("another file", false)
	_, err = Prune(t.Context(), c.cache, DefaultCacheAge, DefaultCacheBytes, nil)
	check(t, err)
	again("pruned of what is old", false)
	_, err = Prune(t.Context(), c.cache, DefaultCacheAge, plainSize, nil)
	check(t, err)
	again("pruned of what is large", true)
	all, err := filepath.Glob(c.cache + "/blobs/*")
	check(t, err)
	for _, file := range all {
		if fi, err := os.Stat(file); err == nil && fi.Size() > 2*plainSize && fi.Size()%512 == 0 {
			check(t, os.Truncate(file, fi.Size()-512))
		}
	}
	again("torn", true)
}

// A layer that is not what its config says is not kept, and is refused where it is unpacked, as without a cache.
func TestFalseLayersAreNotKept(t *testing.T) {
	testoci.NeedRoot(t)
	content := make([]byte, 2*plainSize)
	rand.NewChaCha8([32]byte{}).Read(content)
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	layer := testoci.Gzip(t, testoci.Tar(t, testoci.File("large", string(content))))
	d, err := s.Add(t.Context(), ocispec.MediaTypeImageLayerGzip, bytes.NewReader(layer))
	check(t, err)
	_, err = s.Put(t.Context(), "false", testoci.HostConfig(digest.FromString("other")), []ocispec.Descriptor{d}, nil)
	check(t, err)
	o := Options{Context: t.TempDir(), Output: filepath.Join(t.TempDir(), "image.tar"), Cache: t.TempDir(), Store: s,
		Runner: func(string) (Runner, error) { return changing{t, 1}, nil }}
	check(t, os.WriteFile(o.Context+"/Jailfile", []byte("FROM false\nRUN [\"x\", \"1\"]\n"), 0o644))
	_, err = Build(t.Context(), o)
	testoci.WantError(t, err, "the config says")
	if kept, err := filepath.Glob(o.Cache + "/plain/*"); err != nil || len(kept) > 0 {
		t.Errorf("kept %q: %v", kept, err)
	}
	if kept, err := filepath.Glob(o.Cache + "/blobs/.*"); err != nil || len(kept) > 0 {
		t.Errorf("left %q: %v", kept, err)
	}
}
