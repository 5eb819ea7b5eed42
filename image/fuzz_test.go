package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
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
		_ = applyTar(&bounded{r: bytes.NewReader(archive), used: &b.stream, limit: b.maxBytes, what: limitNames}, root, b, layer)
		if err := RemoveTree(root); err != nil {
			t.Fatalf("the tree cannot be removed: %v", err)
		}
		sameListing(t, "the host", listing(t, host), before)
	})
}
