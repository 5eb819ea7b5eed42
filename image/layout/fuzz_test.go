package layout

import (
	"context"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// Whatever an archive holds, to examine it gives findings or images and ends.
func FuzzExamine(f *testing.F) {
	l := newLayout(layerOf(f, file("f", "x"))).Seal(f)
	f.Add(l.Tar(f))
	delete(l.Files, "oci-layout")
	l.Files["index.json"] = []byte(
		`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:x"}]}`)
	f.Add(l.Tar(f))
	s := newSaved(f)
	f.Add(layerOf(f, s.all()...))
	s.items[4] = symlink("a/layer.tar", "../b/layer.tar")
	f.Add(layerOf(f, s.all()...))
	l = newLayout(layerOf(f, file("f", "x"))).Seal(f)
	f.Add(layerOf(f, dirItems(f, l.Manifest, l.Files)...))
	f.Fuzz(func(t *testing.T, archive []byte) {
		t.Setenv("TMPDIR", t.TempDir())
		limits := image.Limits{ImageBytes: 1 << 20, Entries: 1000}
		e, err := Examine(context.Background(), writeTemp(t, archive), limits,
			func(ocispec.Platform) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if e.Errors() == 0 && len(e.Images) == 0 && len(e.List) == 0 {
			t.Error("there is neither an image nor a finding")
		}
	})
}
