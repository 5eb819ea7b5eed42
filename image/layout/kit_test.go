package layout

import (
	"errors"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testoci"
)

type item = testoci.Item

var (
	file, symlink, hardlink, special       = testoci.File, testoci.Symlink, testoci.Hardlink, testoci.Special
	layerOf, gz, zst                       = testoci.Tar, testoci.Gzip, testoci.Zstd
	listing, sameListing, wantError, brief = testoci.Listing, testoci.SameListing, testoci.WantError, testoci.Brief
	needRoot, hostConfig, writeTemp        = testoci.NeedRoot, testoci.HostConfig, testoci.WriteTemp
	newLayout                              = testoci.NewLayout
)

func newStore(t testing.TB, l image.Limits) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir(), l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// putLayers makes an image of plain layers in a store.
func putLayers(t testing.TB, s *Store, name string, layers ...[]byte) *image.Image {
	t.Helper()
	return testoci.PutLayers(t, s, name, layers...)
}

// list are all images of a store.
func list(s *Store) (out []*image.Image, errs error) {
	for img, err := range s.All() {
		if errs = errors.Join(errs, err); err == nil {
			out = append(out, img)
		}
	}
	return out, errs
}
