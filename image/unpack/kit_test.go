package unpack

import (
	"context"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

type item = testoci.Item

var (
	file, dir, symlink, hardlink, special = testoci.File, testoci.Dir, testoci.Symlink, testoci.Hardlink,
		testoci.Special
	layerOf, gz, zst                       = testoci.Tar, testoci.Gzip, testoci.Zstd
	listing, sameListing, wantError, brief = testoci.Listing, testoci.SameListing, testoci.WantError, testoci.Brief
	needRoot, hostConfig                   = testoci.NeedRoot, testoci.HostConfig
)

func newStore(t testing.TB, l image.Limits) *layout.Store {
	t.Helper()
	s, err := layout.OpenStore(t.TempDir(), l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// putLayers makes an image of plain layers in a store.
func putLayers(t testing.TB, s *layout.Store, name string, layers ...[]byte) *image.Image {
	t.Helper()
	return testoci.PutLayers(t, s, name, layers...)
}

// unpackLayers unpacks layers into a new directory.
func unpackLayers(t testing.TB, layers ...[]byte) (string, error) {
	t.Helper()
	s := newStore(t, image.Limits{})
	root := t.TempDir()
	return root, Image(context.Background(), s, putLayers(t, s, "test", layers...), root, nil)
}

var ctx = context.Background()
