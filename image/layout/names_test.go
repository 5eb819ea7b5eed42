package layout

import (
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
