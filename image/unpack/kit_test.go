package unpack

import (
	"bytes"
	"context"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

type item = testoci.Item

var (
	file, dir, symlink, hardlink, special  = testoci.File, testoci.Dir, testoci.Symlink, testoci.Hardlink, testoci.Special
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
	var diffs []digest.Digest
	var blobs []ocispec.Descriptor
	for _, l := range layers {
		d, err := s.Add(context.Background(), ocispec.MediaTypeImageLayer, bytes.NewReader(l))
		if err != nil {
			t.Fatal(err)
		}
		diffs, blobs = append(diffs, digest.FromBytes(l)), append(blobs, d)
	}
	img, err := s.Put(context.Background(), name, hostConfig(diffs...), blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// unpackLayers unpacks layers into a new directory.
func unpackLayers(t testing.TB, layers ...[]byte) (string, error) {
	t.Helper()
	s := newStore(t, image.Limits{})
	root := t.TempDir()
	return root, Image(context.Background(), s, putLayers(t, s, "test", layers...), root, nil)
}

var ctx = context.Background()
