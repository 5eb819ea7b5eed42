package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
)

// What the images of an archive have in common is read once, not for each name: here it is gone after the first.
func TestAnArchiveIsReadOnce(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "a"))).Seal(t)
	img := l.Index.Manifests[0]
	img.Annotations = nil
	below := l.JSON(t, ocispec.MediaTypeImageIndex, newIndex(img))
	approval := l.Manifest
	approval.ArtifactType, approval.Subject = document.Approval, &img
	attached := l.JSON(t, ocispec.MediaTypeImageManifest, approval)
	one, two := below, below
	one.Annotations, two.Annotations = map[string]string{refName: "one:1"}, map[string]string{refName: "two:1"}
	l.Index.Manifests = []ocispec.Descriptor{one, two, attached}
	l.Reindex(t)
	dir := l.Dir(t)
	in, err := OpenInput(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s, visits := newStore(t, image.Limits{}), 0
	_, err = s.ImportEach(ctx, in, FetchOptions{}, func(own string, take func(string) (*image.Image, error)) error {
		if _, err := take(own); err != nil {
			return fmt.Errorf("%s: %w", own, err)
		}
		if visits++; visits > 1 {
			return nil
		}
		for _, name := range []string{indexFile, blobName(below.Digest), blobName(attached.Digest)} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || visits != 2 {
		t.Errorf("%d images: %v", visits, err)
	}
}

// Whoever lists many manifests with signatures of an image, or one many times, has not all of them held in memory.
func TestSignaturesBesideAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		step int // by which each differs from the one before
		want string
	}{"one, many times": {}, "many": {1, "more than 10 manifests have its tag"}} {
		l := newLayout(layerOf(t, file("f", "a"))).Seal(t)
		d := l.Index.Manifests[0].Digest
		s := statement(t, d)
		for i := range 3000 {
			l.Index.Manifests = append(l.Index.Manifests, signedBy(t, l.Blob, d, s, i*c.step))
		}
		l.Reindex(t)
		to := newStore(t, image.Limits{})
		img, err := to.Import(ctx, writeTemp(t, l.Tar(t)), "", nil)
		if c.want != "" {
			wantError(t, err, c.want)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := to.Signatures(img.Digest); err != nil || len(r.Signatures) != 1 {
			t.Errorf("%s: %d signatures, %v", name, len(r.Signatures), err)
		}
	}
}

// signedBy puts a manifest with a signature into a layout; the last digit of the signature differs by n.
func signedBy(t *testing.T, put func(string, []byte) ocispec.Descriptor, to digest.Digest, s sign.Signature,
	n int) (d ocispec.Descriptor) {
	t.Helper()
	s.Signature = append([]byte(nil), s.Signature...)
	s.Signature[len(s.Signature)-1] += byte(n)
	s.Signature[len(s.Signature)-2] += byte(n >> 8)
	blobs, err := sign.Manifest([]sign.Signature{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		d = put(b.Descriptor.MediaType, b.Content)
	}
	d.Annotations = map[string]string{refName: sign.Tag(to)}
	return d
}
