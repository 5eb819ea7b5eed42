package layout

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/regular"
)

// choice is an image of a layout that somebody else has made.
type choice struct {
	ocispec.Descriptor
	name    string   // that the layout gives it; empty is none
	indexes [][]byte // within the layout's own, that led to it
}

// choose goes from the index to the one image that is wanted.
func (l *Layout) choose(ctx context.Context, wanted []ocispec.Platform, name string) (choice, error) {
	get := func(d ocispec.Descriptor) ([]byte, error) {
		if d.Digest != "" {
			return ReadBlob(ctx, l, d)
		}
		b, err := l.foreignIndex()
		if err != nil {
			return nil, fmt.Errorf("%s is not an OCI layout or oci-archive: %w", l.name, err)
		}
		return b, nil
	}
	d, own, indexes, err := image.Narrow(get, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, wanted, name)
	if err != nil {
		return choice{}, err
	}
	return choice{d, own, indexes[1:]}, nil
}

func (l *Layout) foreignIndex() ([]byte, error) {
	return regular.ReadIn(l.root, indexFile, document.MaxBytes)
}

// signaturesBeside are those that lie beside an image, or beside an index that led
// to it.
func (l *Layout) signaturesBeside(ctx context.Context, found choice) (r sign.Record, err error) {
	b, err := l.foreignIndex()
	if err != nil {
		return r, err
	}
	idx, err := document.ReadIndex(b, ocispec.MediaTypeImageIndex)
	if err != nil {
		return r, fmt.Errorf("image index: %w", err)
	}
	r.Indexes = found.indexes
	tags := map[string]bool{sign.Tag(found.Digest): true}
	for _, index := range found.indexes {
		tags[sign.Tag(digest.FromBytes(index))] = true
	}
	read := func(d ocispec.Descriptor) ([]byte, error) { return ReadBlob(ctx, l, d) }
	for _, m := range idx.Manifests {
		if !tags[m.Annotations[refName]] {
			continue
		}
		b, err := read(m)
		if err != nil {
			return r, err
		}
		list, err := sign.Parse(b, m.MediaType, read)
		if err != nil {
			return r, err
		}
		r.Signatures = append(r.Signatures, list...)
	}
	return r, nil
}
