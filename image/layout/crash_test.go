package layout

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/testcrash"
)

// Whenever the power is cut, the store opens, an image that was reported is whole, one
// that was removed is gone, and no image is there of which something is missing.
func TestPowerCuts(t *testing.T) {
	shared := layerOf(t, file("shared", "of both"))
	one := newLayout(shared, layerOf(t, file("a", "one"))).Seal(t).Tar(t)
	two := newLayout(shared, layerOf(t, file("b", "two"))).Seal(t).Tar(t)
	do := func(dir string, ack func(string)) {
		archives := t.TempDir()
		put := func(s *Store, name string, b []byte) {
			ack("?" + name)
			path := filepath.Join(archives, name)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Import(ctx, path, name, nil); err != nil {
				t.Fatal(err)
			}
			ack("+" + name)
		}
		s, err := OpenStore(filepath.Join(dir, "images"), image.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		put(s, "one", one)
		put(s, "two", two)
		ack("?one")
		if err := s.Remove("one"); err != nil {
			t.Fatal(err)
		}
		ack("-one")
		if _, err := s.GC(ctx); err != nil {
			t.Fatal(err)
		}
		put(s, "one", one)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	testcrash.Run(t, do, func(dir string, acked []string) {
		s, err := OpenStore(filepath.Join(dir, "images"), image.Limits{})
		if err != nil {
			t.Errorf("after %v: %v", acked, err)
			return
		}
		defer s.Close()
		if s.Aside != nil {
			t.Errorf("after %v: %v", acked, s.Aside)
		}
		for _, name := range []string{"one", "two"} {
			last := "-" + name
			for _, what := range acked {
				if what[1:] == name {
					last = what
				}
			}
			img, err := s.Get(name)
			switch {
			case last == "+"+name && errors.Is(err, image.ErrNotFound):
				t.Errorf("%s was reported, and is lost: %v", name, acked)
			case last == "-"+name && err == nil:
				t.Errorf("%s was removed, and is there again: %v", name, acked)
			case errors.Is(err, image.ErrNotFound):
			case err != nil:
				t.Errorf("%s after %v: %v", name, acked, err)
			default:
				if err := unpack.Image(ctx, s, img, t.TempDir(), nil); err != nil {
					t.Errorf("%s after %v: %v", name, acked, err)
				}
			}
		}
	})
}
