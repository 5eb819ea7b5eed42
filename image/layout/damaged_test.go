package layout

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
)

// A damaged index is set aside and can come back: what it named stays as long as it is
// there.
func TestDamagedIndex(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "one", layerOf(t, file("a", "x")))
	index := filepath.Join(s.dir, "index.json")
	whole, err := os.ReadFile(index)
	if err == nil {
		err = errors.Join(os.WriteFile(index, whole[:len(whole)/2], 0o600), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, err = OpenStore(s.dir, image.Limits{}); err != nil || s.Aside == nil {
		t.Fatalf("opened with %v set aside: %v", s.Aside, err)
	}
	if _, err := s.Get("one"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("an image by a name that is lost: %v", err)
	}
	two := putLayers(t, s, "two", layerOf(t, file("b", "y")))
	if n, err := s.GC(ctx); err != nil || n != 0 {
		t.Errorf("%d bytes are collected while the damaged index is there: %v", n, err)
	}
	// Mended, it is put back.
	if err := errors.Join(s.Close(), os.WriteFile(s.Aside.To, whole, 0o600), os.Rename(s.Aside.To, index)); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenStore(s.dir, image.Limits{}); err != nil || s.Aside != nil {
		t.Fatalf("opened with %v set aside: %v", s.Aside, err)
	}
	if again, err := s.Get("one"); err != nil || again.Digest != img.Digest {
		t.Errorf("one is %v: %v", again, err)
	} else if err := unpack.Image(ctx, s, again, t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	if n, err := s.GC(ctx); err != nil || n == 0 {
		t.Errorf("of two, which has no name now, %d bytes are collected: %v", n, err)
	}
	if _, err := os.Stat(s.path(two.Digest)); err == nil {
		t.Error("two is still there")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
