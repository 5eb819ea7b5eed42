package layout

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testoci"
)

// polyglot adds to a sealed layout a manifest that is an index by another field,
// which names the layout's own image. Its digest is signed.
func polyglot(t *testing.T, l *testoci.Layout, key *sign.PrivateKey) (d, signatures ocispec.Descriptor) {
	t.Helper()
	both := struct {
		ocispec.Manifest
		Manifests []ocispec.Descriptor `json:"manifests"`
	}{l.Manifest, []ocispec.Descriptor{l.Index.Manifests[0]}}
	both.MediaType = ""
	d = l.JSON(t, ocispec.MediaTypeImageManifest, both)
	s, err := key.Sign(sign.Statement{Identity: "test", Digest: d.Digest})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := sign.Manifest([]sign.Signature{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		signatures = l.Blob(b.Descriptor.MediaType, b.Content)
	}
	signatures.Annotations = map[string]string{refName: sign.Tag(d.Digest)}
	return d, signatures
}

// One that was signed as a manifest is not taken for an index that lends its
// signature to others, nor the other way round, whatever its descriptor calls it.
func TestPolyglotsAreRefused(t *testing.T) {
	private, _, err := sign.Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ReadPrivate(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, mediaType := range []string{ocispec.MediaTypeImageIndex, document.DockerList, ocispec.MediaTypeImageManifest,
		document.DockerManifest} {
		l := newLayout(layerOf(t, file("f", "evil"))).Seal(t)
		d, signatures := polyglot(t, l, key)
		d.MediaType, d.Annotations = mediaType, map[string]string{refName: "test:1.0"}
		l.Index.Manifests = []ocispec.Descriptor{d, signatures}
		l.Reindex(t)
		s := newStore(t, image.Limits{})
		for _, path := range []string{l.Dir(t), writeTemp(t, l.Tar(t))} {
			img, err := s.Import(ctx, path, "", nil)
			if err == nil {
				rec, rerr := s.Signatures(img.Digest)
				t.Errorf("%s: the image is taken, and signed: %v (%v)", mediaType,
					rec.By(key.Public(), "test", img.Digest), rerr)
				continue
			}
			wantError(t, err, "others would read the document as one of another kind")
		}
	}
}

// A store that has such documents from before does not use them.
func TestPolyglotsOfAStoreAreRefused(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "test", layerOf(t, file("f", "x")))
	b, err := s.ReadBlob(ocispec.Descriptor{Digest: img.Digest})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	fields["manifests"] = []any{}
	d, err := s.addJSON(ctx, ocispec.MediaTypeImageManifest, fields)
	if err != nil {
		t.Fatal(err)
	}
	d.Annotations = map[string]string{refName: "evil"}
	if err := s.setName(d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("evil"); err == nil {
		t.Error("it is used")
	}
	if _, err := s.Get("test"); err != nil {
		t.Error(err)
	}
	wrong := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: img.Digest, Size: int64(len(b)),
		Annotations: map[string]string{refName: "wrong"}}
	if err := s.setName(wrong); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("wrong"); err == nil {
		t.Error("a manifest that the store's index calls an index is used")
	}
}

// The store's own list is read as strictly.
func TestTheStoresIndexIsReadStrictly(t *testing.T) {
	for _, text := range []string{`{"schemaVersion":2,"manifests":[],"manifests":[]}`,
		`{"schemaVersion":2,"manifests":[],"layers":[]}`, `{"schemaVersion":2,"manifests":[]} {}`} {
		s := newStore(t, image.Limits{})
		if err := s.writeFile(indexFile, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := list(s); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

// An image in use can be found by its digest when it has lost its name, be its
// manifest OCI's or Docker's.
func TestANamelessImageOfDocker(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x")))
	l.Manifest.MediaType = document.DockerManifest
	l.Seal(t)
	l.Index.Manifests[0].MediaType = document.DockerManifest
	s := newStore(t, image.Limits{})
	img, err := s.Import(ctx, l.Reindex(t).Dir(t), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Held = func() []digest.Digest { return []digest.Digest{img.Digest} }
	if err := s.Remove(img.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(img.Digest.String()); err != nil {
		t.Error(err)
	}
}

// What the store has of others' images does not stand in for a blob that an
// archive only names.
func TestAnArchiveHasItsBlobs(t *testing.T) {
	layer := layerOf(t, file("f", "secret"))
	s := newStore(t, image.Limits{})
	putLayers(t, s, "private", layer)
	l := newLayout(layer, layer).Seal(t)
	if _, err := s.Import(ctx, writeTemp(t, l.Tar(t)), "twice", nil); err != nil {
		t.Errorf("a layer that is there twice: %v", err)
	}
	delete(l.Files, blobName(digest.FromBytes(layer)))
	for _, path := range []string{writeTemp(t, l.Tar(t)), l.Dir(t)} {
		_, err := s.Import(ctx, path, "thief", nil)
		wantError(t, err, "is missing")
	}
}

// Of the names of an image one that is for everybody is enough.
func TestPrivateNames(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "b:1", layerOf(t, file("f", "x")))
	d, err := s.find("b:1")
	if err != nil {
		t.Fatal(err)
	}
	name := func(name string, mark bool) {
		d.Annotations = map[string]string{refName: name}
		if mark {
			d.Annotations[privateMark] = "true"
		}
		if err := s.setName(d); err != nil {
			t.Fatal(err)
		}
	}
	private := func(ref string, want bool) {
		t.Helper()
		if got, err := s.Get(ref); err != nil || got.Private != want {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	name("b:1", true)
	private("b:1", true)
	private(img.Digest.String(), true)
	for _, public := range []string{"a:1", "c:1"} {
		name(public, false)
		private("b:1", true)
		private(img.Digest.String(), false)
		if err := s.Remove(public); err != nil {
			t.Fatal(err)
		}
	}
}
