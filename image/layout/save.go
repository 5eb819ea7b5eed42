package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
)

// Saved is an image of a store, and the name that it is to have in an archive; empty is none.
type Saved struct {
	Digest digest.Digest
	Name   string
}

// SaveOptions say what is saved beside images.
type SaveOptions struct {
	Unsigned bool         // leave signatures and approvals out
	Tell     func(string) // hears of what is kept beside an image and cannot be in an archive; may be nil
}

// Save writes images, with the signatures and approvals that are kept beside them, as one oci-archive.
// Blobs of several images are in it once, each verified; the index is its last file. The caller holds the images.
func (s *Store) Save(ctx context.Context, list []Saved, w io.Writer, o SaveOptions) error {
	tw := tar.NewWriter(w)
	v := &saver{store: s, done: map[digest.Digest]bool{}, SaveOptions: o,
		put: func(name string, size int64, r io.Reader) error { return tarFile(tw, name, size, r) }}
	err := v.put(ocispec.ImageLayoutFile, int64(len(versionText)), strings.NewReader(versionText))
	for _, one := range list {
		if err == nil {
			err = v.image(ctx, one)
		}
		if err != nil {
			return fmt.Errorf("save %s: %w", one.Digest, err)
		}
	}
	idx, err := json.Marshal(newIndex(v.index...))
	if err != nil {
		return err
	}
	if len(idx) > document.MaxBytes {
		return fmt.Errorf("save: the index of the archive would have more than %d bytes: save fewer images at once",
			document.MaxBytes)
	}
	if err := v.put(indexFile, int64(len(idx)), bytes.NewReader(idx)); err != nil {
		return err
	}
	return tw.Close()
}

// saver writes the files of an archive.
type saver struct {
	store *Store
	put   func(name string, size int64, r io.Reader) error
	index []ocispec.Descriptor
	done  map[digest.Digest]bool // blobs that are written
	SaveOptions
}

func (v *saver) tell(text string) {
	if v.Tell != nil {
		v.Tell(text)
	}
}

func (v *saver) image(ctx context.Context, one Saved) error {
	d, err := v.store.find(one.Digest.String())
	if err != nil {
		return err
	}
	first := !v.done[d.Digest]
	img, m, err := image.Read(v.store.ReadBlob, d)
	if err != nil {
		return err
	}
	for _, b := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
		if v.done[b.Digest] {
			continue
		}
		v.done[b.Digest] = true
		if err := v.store.exportBlob(ctx, b, v.put); err != nil {
			return err
		}
	}
	entry := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
		Platform: &ocispec.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture,
			OSVersion: img.Config.OSVersion, Variant: img.Config.Variant}}
	if pin(one.Name, d.Digest) != "" {
		// Whoever reads the archive could not tell the name from a false one.
		v.tell(fmt.Sprintf("the image %s is without its name in the archive, as the digest in that is of an index, "+
			"which is not there: `freejail tag` gives it another one", one.Name))
		one.Name = ""
	}
	if one.Name != "" {
		entry.Annotations = map[string]string{refName: one.Name}
	}
	if v.index = append(v.index, entry); !first || v.Unsigned {
		return nil
	}
	if err := v.signatures(d); err != nil {
		return err
	}
	return v.approvals(d)
}

// signatures are named in cosign's way. Those of an index that led to the image are left out, as that is not here.
func (v *saver) signatures(to ocispec.Descriptor) error {
	r, err := v.store.Signatures(to.Digest)
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(slices.Clone(r.Signatures), func(s sign.Signature) bool { return s.Digest() != to.Digest })
	if left := len(r.Signatures) - len(own); left > 0 {
		v.tell(fmt.Sprintf("%d of the signatures of %s are of the index by which it was pulled, and not in the "+
			"archive: `freejail-build copy --all` copies that from its registry", left, to.Digest))
	}
	if len(own) == 0 {
		return nil
	}
	blobs, err := sign.Manifest(own)
	if err != nil {
		return err
	}
	return v.beside(blobs, sign.Tag(to.Digest), "")
}

func (v *saver) approvals(to ocispec.Descriptor) error {
	list, err := v.store.Approvals(to.Digest)
	if err != nil {
		return err
	}
	for _, doc := range list {
		blobs, err := sign.Attachment(doc, document.Approval, to)
		if err == nil {
			err = v.beside(blobs, "", document.Approval)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beside writes what is attached to an image; its manifest is the last of the blobs.
func (v *saver) beside(blobs []sign.Blob, name, artifactType string) error {
	for _, b := range blobs {
		if v.done[b.Descriptor.Digest] {
			continue
		}
		v.done[b.Descriptor.Digest] = true
		err := v.put(blobName(b.Descriptor.Digest), b.Descriptor.Size, bytes.NewReader(b.Content))
		if err != nil {
			return err
		}
	}
	d := blobs[len(blobs)-1].Descriptor
	if d.ArtifactType = artifactType; name != "" {
		d.Annotations = map[string]string{refName: name}
	}
	v.index = append(v.index, d)
	return nil
}
