package layout

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freejail/freejail/image"
)

func TestNamesOfADigest(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "web:1", layerOf(t, file("f", "a")))
	putLayers(t, s, "db", layerOf(t, file("f", "b")))
	putLayers(t, s, "prod/web", layerOf(t, file("f", "a")))
	if names, err := s.Names(img.Digest); err != nil || !slices.Equal(names, []string{"prod/web", "web:1"}) {
		t.Error(names, err)
	}
	if names, err := s.Names("sha256:0"); err != nil || len(names) > 0 {
		t.Error(names, err)
	}
}

// A copy outside of the store takes the place of what is there, such as one that was cut off.
func TestCopyBlob(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "web", layerOf(t, file("f", "a")))
	want, err := os.ReadFile(s.path(img.Layers[0].Digest))
	if err != nil {
		t.Fatal(err)
	}
	for _, before := range []string{"", "damaged"} {
		name := filepath.Join(t.TempDir(), "blob")
		if before != "" {
			if err := os.WriteFile(name, []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.CopyBlob(ctx, img.Layers[0], name); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("over %q: %d bytes, %v", before, len(got), err)
		}
	}
}
