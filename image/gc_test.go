package image

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestPrune(t *testing.T) {
	byPath := func(name string, _ digest.Digest) bool { return strings.HasPrefix(name, "file/") }
	const mib = 1 << 20
	for name, c := range map[string]struct {
		o    PruneOptions
		gone string
	}{
		"nothing asked":           {PruneOptions{Prunable: byPath}, ""},
		"nothing may go":          {PruneOptions{Older: time.Second, MaxSize: 1}, ""},
		"by age":                  {PruneOptions{Older: 36 * time.Hour, Prunable: byPath}, "file/old"},
		"all by age, tags stay":   {PruneOptions{Older: time.Minute, Prunable: byPath}, "file/old file/new"},
		"by size, oldest first":   {PruneOptions{MaxSize: 2*mib + mib/2, Prunable: byPath}, "file/old"},
		"by size, tags stay":      {PruneOptions{MaxSize: 1, Prunable: byPath}, "file/old file/new"},
		"small enough":            {PruneOptions{MaxSize: 4 * mib, Prunable: byPath}, ""},
		"neither too old":         {PruneOptions{Older: 100 * time.Hour, Prunable: byPath}, ""},
		"by age, then size too":   {PruneOptions{Older: 36 * time.Hour, MaxSize: mib + mib/2, Prunable: byPath}, "file/old file/new"},
		"only what may by digest": {PruneOptions{Older: time.Minute, Prunable: func(string, digest.Digest) bool { return false }}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Limits{})
			for n, age := range map[string]time.Duration{"file/old": 48 * time.Hour, "file/new": 24 * time.Hour, "tag:1": 72 * time.Hour} {
				img := putLayers(t, s, n, layerOf(t, file(strings.ReplaceAll(n, "/", "-"), strings.Repeat(n[len(n)-1:], mib))))
				at := time.Now().Add(-age)
				if err := os.Chtimes(s.blobPath(img.Digest), at, at); err != nil {
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
					if err := s.Unpack(ctx, img, t.TempDir(), nil); err != nil {
						t.Errorf("%s is of no use any more: %v", n, err)
					}
				}
			}
		})
	}
}

func TestTouchKeepsAnImage(t *testing.T) {
	s := newStore(t, Limits{})
	img := putLayers(t, s, "file/a", layerOf(t, file("f", "x")))
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.blobPath(img.Digest), long, long); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(img); err != nil {
		t.Fatal(err)
	}
	gone, err := s.Prune(ctx, PruneOptions{Older: 30 * time.Minute, Prunable: func(string, digest.Digest) bool { return true }})
	if err != nil || len(gone) > 0 {
		t.Errorf("forgot %v, %v", gone, err)
	}
}

// An image whose name a collection has taken between Get and Hold is not held:
// who has it would be the only one to know it.
func TestHoldOfAForgottenImage(t *testing.T) {
	s := newStore(t, Limits{})
	img := putLayers(t, s, "file/x", layerOf(t, file("x", "x")))
	every := PruneOptions{Older: time.Nanosecond, Prunable: func(string, digest.Digest) bool { return true }}
	if gone, err := s.Prune(ctx, every); err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	if _, err := s.Hold(img); !errors.Is(err, ErrNotFound) {
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
