package layout

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
)

// reading is one of a layout that somebody else has made: what its images have in common is read once, however many of
// them are taken. It is not for several goroutines.
type reading struct {
	*Layout
	index    ocispec.Index
	text     []byte // of the index
	below    map[indexKey]indexText
	size     int64 // of those, in bytes
	attached map[digest.Digest][]attachment
	unread   error // why what is attached is not known
}

type indexKey struct {
	digest    digest.Digest
	mediaType string
	size      int64
}

type indexText struct {
	ocispec.Index
	text []byte
}

// attachment is an approval that refers to an image.
type attachment struct {
	sign.Signature // without the payload
	payload        ocispec.Descriptor
}

// read reads the index of a layout of somebody else.
func (l *Layout) read() (*reading, error) {
	b, err := l.foreignIndex()
	if err != nil {
		return nil, l.noLayout(err)
	}
	idx, err := document.ReadIndex(b, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, fmt.Errorf("image index: %w", err)
	}
	return &reading{Layout: l, index: idx, text: b, below: map[indexKey]indexText{}}, nil
}

// indexOf gives the layout's own index for a descriptor without a digest, and others.
func (r *reading) indexOf(ctx context.Context, d ocispec.Descriptor) (idx ocispec.Index, text []byte, err error) {
	if d.Digest == "" {
		return r.index, r.text, nil
	}
	key := indexKey{d.Digest, d.MediaType, d.Size}
	if known, ok := r.below[key]; ok {
		return known.Index, known.text, nil
	}
	if text, err = ReadBlob(ctx, r.Layout, d); err != nil {
		return idx, nil, err
	}
	if idx, err = document.ReadIndex(text, d.MediaType); err != nil {
		return idx, nil, fmt.Errorf("image index: %w", err)
	}
	if r.size += d.Size; r.size > document.MaxBytes {
		clear(r.below)
		r.size = d.Size
	}
	r.below[key] = indexText{idx, text}
	return idx, text, nil
}

// attachments are the approvals of all images of the layout, by the images. A manifest with a platform is an image's.
func (r *reading) attachments(ctx context.Context) (map[digest.Digest][]attachment, error) {
	if r.attached != nil || r.unread != nil {
		return r.attached, r.unread
	}
	attached, seen := map[digest.Digest][]attachment{}, map[digest.Digest]bool{}
	for _, d := range r.index.Manifests {
		if !document.IsImage(d.MediaType) || d.Platform != nil || seen[d.Digest] {
			continue
		}
		if seen[d.Digest] = true; len(seen) > maxLooked {
			break
		}
		a, to, ok, err := r.attachment(ctx, d)
		if err != nil {
			r.unread = err
			return nil, err
		}
		if ok {
			attached[to] = append(attached[to], a)
		}
	}
	r.attached = attached
	return attached, nil
}

// attachment is what a manifest attaches to an image; ok is false of others.
func (r *reading) attachment(ctx context.Context, d ocispec.Descriptor) (a attachment, to digest.Digest, ok bool,
	err error) {
	b, err := ReadBlob(ctx, r.Layout, d)
	if err != nil {
		return a, "", false, err
	}
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil || m.ArtifactType != document.Approval || m.Subject == nil {
		return a, "", false, nil // it is somebody else's to read
	}
	said, ok := sign.Announcement(m.Annotations)
	i := slices.IndexFunc(m.Layers, func(l ocispec.Descriptor) bool { return l.Digest == said.Digest })
	if !ok || i < 0 || m.Layers[i].Size > sign.MaxPayload {
		return a, "", false, nil
	}
	a.Signature.Signature, a.payload = said.Signature, m.Layers[i]
	return a, m.Subject.Digest, true, nil
}
