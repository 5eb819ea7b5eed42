package unpack

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/internal/testoci"
)

// Whatever an archive says, what is beside the root stays as it was, and the
// tree can be removed afterwards.
func FuzzApplyTar(f *testing.F) {
	for _, items := range [][]item{
		{dir("a"), file("a/b", "text"), symlink("l", "../.."), hardlink("h", "a/b")},
		{symlink("l", "/"), file("l/victim", "x")},
		{file(".wh..wh..opq", ""), file("a/.wh.b", ""), dir("a/../b")},
		{file("../victim", "x")},
		{symlink("a", "b"), symlink("b", "a"), dir("a/c")},
	} {
		f.Add(layerOf(f, items...), true)
		f.Add(layerOf(f, items...), false)
	}
	for _, a := range testoci.Attacks() {
		for _, items := range a.Layers {
			f.Add(layerOf(f, items...), true)
		}
	}
	if sparse, err := os.ReadFile("testdata/sparse.tar"); err != nil {
		f.Fatal(err)
	} else {
		f.Add(sparse, true)
	}
	f.Fuzz(func(t *testing.T, archive []byte, layer bool) {
		host := t.TempDir()
		root := filepath.Join(host, "root")
		if err := os.WriteFile(filepath.Join(host, "victim"), []byte("untouched"), 0o640); err != nil {
			t.Fatal(err)
		}
		before := listing(t, host)
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		b := &budget{maxBytes: 1 << 20, maxEntries: 1000}
		// Its error is no finding: most inputs are no archives.
		_ = applyTar(blob.Limit(bytes.NewReader(archive), &b.stream, b.maxBytes, limitNames), root, b, layer)
		if err := remove.Tree(root); err != nil {
			t.Fatalf("the tree cannot be removed: %v", err)
		}
		sameListing(t, "the host", listing(t, host), before)
	})
}

// Whatever a layer's blob is, unpacking it ends, what is beside the root stays
// as it was, and only content with the right digest is taken.
func FuzzUnpackLayer(f *testing.F) {
	kinds := []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}
	good := layerOf(f, dir("a"), file("a/b", strings.Repeat("text", 1000)), hardlink("c", "a/b"), symlink("l", "/a"))
	for i, blob := range [][]byte{good, gz(f, good), zst(f, good)} {
		f.Add(blob, byte(i))
		f.Add(blob[:len(blob)/2], byte(i))
		f.Add(append(bytes.Clone(blob), blob...), byte(i))
	}
	f.Fuzz(func(t *testing.T, blob []byte, kind byte) {
		host := t.TempDir()
		s, err := layout.OpenStore(filepath.Join(host, "store"), image.Limits{LayerBytes: 1 << 20, Entries: 1000})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		d, err := s.Add(context.Background(), kinds[int(kind)%len(kinds)], bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Put(context.Background(), "x", hostConfig(digest.FromBytes(good)), []ocispec.Descriptor{d}, nil)
		if err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(host, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		before := listing(t, filepath.Join(host, "store"))
		if err := Image(context.Background(), s, img, root, nil); err == nil {
			if got := brief(t, root); !strings.HasPrefix(got, "a/b=texttext") {
				t.Errorf("another content was taken: %s", got)
			}
		}
		sameListing(t, "the store", listing(t, filepath.Join(host, "store")), before)
		if err := remove.Tree(root); err != nil {
			t.Fatalf("the tree cannot be removed: %v", err)
		}
	})
}
