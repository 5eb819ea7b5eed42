package layout

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
)

// What was used while the clock was ahead ages from when that is noticed.
func TestPruneAfterTheClockWasAhead(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "one", layerOf(t, file("a", "x")))
	ahead := time.Now().Add(48 * time.Hour)
	partial := filepath.Join(filepath.Join(s.dir, partialDir), "x")
	if err := errors.Join(os.Chtimes(s.path(img.Digest), ahead, ahead),
		os.MkdirAll(filepath.Join(s.dir, partialDir), 0o700),
		os.WriteFile(partial, nil, 0o600), os.Chtimes(partial, ahead, ahead)); err != nil {
		t.Fatal(err)
	}
	all := func(string, digest.Digest) bool { return true }
	if gone, err := s.Prune(ctx, PruneOptions{Older: time.Hour, Prunable: all}); err != nil || len(gone) != 0 {
		t.Errorf("forgot %v: %v", gone, err)
	}
	time.Sleep(time.Millisecond)
	if gone, err := s.Prune(ctx, PruneOptions{Older: time.Nanosecond, Prunable: all}); err != nil || len(gone) != 1 {
		t.Errorf("forgot %v, want one: %v", gone, err)
	}
	if _, err := s.GC(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(partial); err == nil {
		t.Error("what a download left stays until the clock has caught up")
	}
}

func TestPrune(t *testing.T) {
	byPath := func(name string, _ digest.Digest) bool { return strings.HasPrefix(name, "file/") }
	const mib = 1 << 20
	for name, c := range map[string]struct {
		o    PruneOptions
		gone string
	}{
		"nothing asked":         {PruneOptions{Prunable: byPath}, ""},
		"nothing may go":        {PruneOptions{Older: time.Second, MaxSize: 1}, ""},
		"by age":                {PruneOptions{Older: 36 * time.Hour, Prunable: byPath}, "file/old"},
		"all by age, tags stay": {PruneOptions{Older: time.Minute, Prunable: byPath}, "file/old file/new"},
		"by size, oldest first": {PruneOptions{MaxSize: 2*mib + mib/2, Prunable: byPath}, "file/old"},
		"by size, tags stay":    {PruneOptions{MaxSize: 1, Prunable: byPath}, "file/old file/new"},
		"small enough":          {PruneOptions{MaxSize: 4 * mib, Prunable: byPath}, ""},
		"neither too old":       {PruneOptions{Older: 100 * time.Hour, Prunable: byPath}, ""},
		"by age, then size too": {PruneOptions{Older: 36 * time.Hour, MaxSize: mib + mib/2, Prunable: byPath},
			"file/old file/new"},
		"only what may by digest": {PruneOptions{Older: time.Minute,
			Prunable: func(string, digest.Digest) bool { return false }}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			for n, age := range map[string]time.Duration{"file/old": 48 * time.Hour, "file/new": 24 * time.Hour,
				"tag:1": 72 * time.Hour} {
				img := putLayers(t, s, n,
					layerOf(t, file(strings.ReplaceAll(n, "/", "-"), strings.Repeat(n[len(n)-1:], mib))))
				at := time.Now().Add(-age)
				if err := os.Chtimes(s.path(img.Digest), at, at); err != nil {
					t.Fatal(err)
				}
			}
			gone, err := s.Prune(ctx, c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(gone, " "); got != c.gone {
				t.Errorf("forgot %q, want %q", got, c.gone)
			}
			if _, err := s.GC(ctx); err != nil {
				t.Fatal(err)
			}
			for _, n := range []string{"file/old", "file/new", "tag:1"} {
				img, err := s.Get(n)
				if slices.Contains(gone, n) != (err != nil) {
					t.Errorf("%s: %v", n, err)
				}
				if err == nil {
					if err := unpack.Image(ctx, s, img, t.TempDir(), nil); err != nil {
						t.Errorf("%s is of no use any more: %v", n, err)
					}
				}
			}
		})
	}
}

func TestTouchKeepsAnImage(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "file/a", layerOf(t, file("f", "x")))
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path(img.Digest), long, long); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(img); err != nil {
		t.Fatal(err)
	}
	gone, err := s.Prune(ctx, PruneOptions{Older: 30 * time.Minute,
		Prunable: func(string, digest.Digest) bool { return true }})
	if err != nil || len(gone) > 0 {
		t.Errorf("forgot %v, %v", gone, err)
	}
}

// An image whose name a collection has taken between Get and Hold is not held:
// who has it would be the only one to know it.
func TestHoldOfAForgottenImage(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "file/x", layerOf(t, file("x", "x")))
	every := PruneOptions{Older: time.Nanosecond, Prunable: func(string, digest.Digest) bool { return true }}
	if gone, err := s.Prune(ctx, every); err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	if _, err := s.Hold(img); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the error is %v", err)
	}
	if freed, err := s.GC(ctx); err != nil || freed == 0 {
		t.Errorf("afterwards %d bytes went, %v", freed, err)
	}
	img = putLayers(t, s, "file/x", layerOf(t, file("x", "x")))
	release, err := s.Hold(img)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if gone, err := s.Prune(ctx, every); err != nil || len(gone) != 0 {
		t.Errorf("a held image lost %q, %v", gone, err)
	}
}

// One image that is refused, as an earlier version may have stored it, keeps what
// is its own, and stops neither the collection nor a list of the others.
func TestGCBesideAnUnreadableImage(t *testing.T) {
	for name, spoil := range map[string]func(path string, text []byte) error{
		"refused": nil,
		"damaged": func(path string, text []byte) error { return os.WriteFile(path, text[:len(text)-1], 0o600) },
		"missing": func(path string, _ []byte) error { return os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			good := putLayers(t, s, "good", layerOf(t, file("a", "b")))
			old := putLayers(t, s, "old", layerOf(t, file("c", "d")))
			text, err := os.ReadFile(s.path(old.Digest))
			if err != nil {
				t.Fatal(err)
			}
			text = bytes.Replace(text, []byte(`{`), []byte(`{"x":1,"x":1,`), 1)
			broken := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(text),
				Size:        int64(len(text)),
				Annotations: map[string]string{refName: "old"}}
			if err := errors.Join(os.WriteFile(s.path(broken.Digest), text, 0o600), s.setName(broken)); err != nil {
				t.Fatal(err)
			}
			if spoil != nil {
				if err := spoil(s.path(broken.Digest), text); err != nil {
					t.Fatal(err)
				}
			}
			putLayers(t, s, "gone", layerOf(t, file("e", "f")))
			s.added = map[digest.Digest]bool{} // as after a restart
			if err := s.Remove("gone"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Prune(ctx,
				PruneOptions{MaxSize: 1, Prunable: func(string, digest.Digest) bool { return false }}); err != nil {
				t.Error(err)
			}
			if freed, err := s.GC(ctx); err != nil || freed == 0 {
				t.Errorf("%d bytes went: %v", freed, err)
			}
			images, err := list(s)
			wantError(t, err, `image "old"`, "freejail images rm old")
			if len(images) != 1 || images[0].Digest != good.Digest {
				t.Errorf("the list has %v", images)
			}
			if err := unpack.Image(ctx, s, good, t.TempDir(), nil); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(s.path(old.Layers[0].Digest)); name != "missing" && err != nil {
				t.Errorf("its layer is gone: %v", err)
			}
			l := newLayout(layerOf(t, file("g", "h"))).Seal(t)
			delete(l.Files, blobName(l.Manifest.Layers[0].Digest))
			if _, err := s.Import(ctx, l.Dir(t), "x", nil); err == nil || strings.Contains(err.Error(), "old") {
				t.Errorf("an import of something else: %v", err)
			}
			if err := s.Remove("old"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.GC(ctx); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(filepath.Join(s.dir, blobDir)); err != nil || len(left) != 3 {
				t.Errorf("%d blobs are left, want 3: %v", len(left), err)
			}
		})
	}
}
