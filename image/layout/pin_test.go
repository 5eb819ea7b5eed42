package layout

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// A name with a digest is only that image's, or that of an image to which the index of the digest has led; whatever
// else would give it leaves the name as it was.
func TestPins(t *testing.T) {
	s := newStore(t, image.Limits{})
	good := putLayers(t, s, "good", layerOf(t, file("f", "good")))
	name := "registry.example/web@" + good.Digest.String()
	if _, err := s.Tag(good, name); err != nil {
		t.Fatal(err)
	}
	evil := putLayers(t, s, "evil", layerOf(t, file("f", "evil")))
	_, tagged := s.Tag(evil, name)
	var b bytes.Buffer
	if err := s.Save(ctx, []Saved{{evil.Digest, "evil"}}, &b, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	path := writeTemp(t, b.Bytes())
	_, imported := s.Import(ctx, path, name, nil)
	l := newLayout(layerOf(t, file("f", "evil"))).Seal(t)
	l.Index.Manifests[0].Annotations = map[string]string{refName: name}
	in, err := OpenInput(writeTemp(t, l.Reindex(t).Tar(t)), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	_, loaded := s.ImportEach(ctx, in, FetchOptions{}, func(_ string, take func(string) (*image.Image, error)) error {
		_, err := take("")
		return err
	})
	for what, err := range map[string]error{"tag": tagged, "import": imported, "load": loaded} {
		if !errors.Is(err, ErrPin) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, err := s.Get(name); err != nil || got.Digest != good.Digest {
		t.Errorf("the name is now %+v, %v", got, err)
	}

	l = newLayout(layerOf(t, file("f", "indexed"))).Seal(t)
	inner := l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)
	pinned := "registry.example/web@" + inner.Digest.String()
	inner.Annotations = map[string]string{refName: pinned}
	l.Index.Manifests = []ocispec.Descriptor{inner}
	img, err := s.Import(ctx, writeTemp(t, l.Reindex(t).Tar(t)), "", nil)
	if err != nil || img.Name != pinned {
		t.Fatalf("by its index: %+v, %v", img, err)
	}
	other := "other.example/web@" + inner.Digest.String()
	if _, err := s.Tag(img, other); err != nil {
		t.Errorf("another name with the index: %v", err)
	}
	if got, err := s.Get(pinned); err != nil || got.Digest != img.Digest {
		t.Errorf("by its index: %+v, %v", got, err)
	}
	var told []string
	b.Reset()
	err = s.Save(ctx, []Saved{{img.Digest, pinned}}, &b, SaveOptions{Tell: func(m string) { told = append(told, m) }})
	if err != nil || len(told) != 1 || !strings.Contains(told[0], "without its name") {
		t.Fatalf("saved: told %q, %v", told, err)
	}
	got, _ := takenAll(t, newStore(t, image.Limits{}), writeTemp(t, b.Bytes()))
	if got[""] != img.Digest.String() {
		t.Errorf("of the saved archive: %v", got)
	}
}

// A false digest that is in a store already is not believed, by the name and by the image's own digest; who runs it
// still finds it.
func TestFalsePinsOfBefore(t *testing.T) {
	s := newStore(t, image.Limits{})
	evil := putLayers(t, s, "evil", layerOf(t, file("f", "evil")))
	d, err := s.find("evil")
	name := "registry.example/web@" + digest.FromString("good").String()
	if err == nil {
		err = s.Update(func(idx *ocispec.Index) error {
			idx.Manifests = []ocispec.Descriptor{named(d, name), named(d, "plain")}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(name); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("by the name: %+v, %v", got, err)
	}
	if got, err := s.Get(evil.Digest.String()); err != nil || got.Name != "plain" {
		t.Errorf("by its digest: %+v, %v", got, err)
	}
	if err := s.Remove("plain"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(evil.Digest.String()); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("by its digest, with no other name: %+v, %v", got, err)
	}
	s.Held = func() []digest.Digest { return []digest.Digest{evil.Digest} }
	if got, err := s.Get(evil.Digest.String()); err != nil || got.Name != "" {
		t.Errorf("of a running task: %+v, %v", got, err)
	}
	if _, err := list(s); err == nil || !strings.Contains(err.Error(), "images rm") {
		t.Errorf("in the list: %v", err)
	}
	if err := s.Remove(name); err != nil {
		t.Errorf("removed: %v", err)
	}
}
