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

// approvalDir has, in a store, the approvals that were attached to images.
const approvalDir = "approvals"

// Approvals are what a store's directory keeps of the approvals that were attached to an
// image, none of them verified. Other layouts have them among their images.
func (l *Layout) Approvals(d digest.Digest) (list sign.Documents, err error) {
	if err := l.readBeside(approvalDir, d, sign.MaxDocumentsText, &list); err != nil {
		return nil, err
	}
	return list, nil
}

// AddApprovals keeps approvals beside an image that is in the store, for as long as it is.
func (s *Store) AddApprovals(d digest.Digest, more sign.Documents) error {
	if len(more) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.Approvals(d)
	if err != nil {
		list = nil // a damaged file holds nothing that could be had no more
	}
	var trusted func(sign.Signature) bool
	if s.Trusted != nil {
		trusted = func(doc sign.Signature) bool { return s.Trusted(d, doc) }
	}
	list.Merge(more, trusted)
	b, err := list.MarshalText()
	if err != nil {
		return err
	}
	return s.writeBeside(approvalDir, d, b)
}

// Bounds of the approvals that are read of one image of an archive or a layout: of those that
// are trusted, and as many others; and of what is looked at for them.
const (
	maxBeside = 100
	maxLooked = 1000
)

// approvalsBeside are those that refer to an image of the layout, once each, and those that
// are trusted first.
func (l *Layout) approvalsBeside(ctx context.Context, to digest.Digest,
	trusted func(digest.Digest, sign.Signature) bool) (sign.Documents, error) {
	list, err := l.besides(to)
	if err != nil {
		return nil, err
	}
	var known, others sign.Documents
	seen := map[[2]string]bool{}
	for _, d := range list {
		doc, ok, err := l.approvalIn(ctx, d, to)
		if err != nil {
			return nil, err
		}
		this := [2]string{digest.FromBytes(doc.Payload).String(), string(doc.Signature)}
		if !ok || seen[this] {
			continue
		}
		seen[this] = true
		into := &others
		if trusted != nil && trusted(to, doc) {
			into = &known
		}
		if len(*into) < maxBeside {
			*into = append(*into, doc)
		}
	}
	return append(known, others...), nil
}

// besides are the manifests of the layout that may refer to an image.
func (l *Layout) besides(to digest.Digest) ([]ocispec.Descriptor, error) {
	b, err := l.foreignIndex()
	if err != nil {
		return nil, err
	}
	idx, err := document.ReadIndex(b, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, fmt.Errorf("image index: %w", err)
	}
	list := slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
		return !document.IsImage(d.MediaType) || d.Digest == to || d.Platform != nil
	})
	return list[:min(len(list), maxLooked)], nil
}

// approvalIn is what a manifest attaches to an image; ok is false of others.
func (l *Layout) approvalIn(ctx context.Context, d ocispec.Descriptor, to digest.Digest) (doc sign.Signature,
	ok bool, err error) {
	b, err := ReadBlob(ctx, l, d)
	if err != nil {
		return doc, false, err
	}
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil || m.ArtifactType != document.Approval || m.Subject == nil || m.Subject.Digest != to {
		return doc, false, nil // it is somebody else's to read
	}
	a, ok := sign.Announcement(m.Annotations)
	i := slices.IndexFunc(m.Layers, func(l ocispec.Descriptor) bool { return l.Digest == a.Digest })
	if !ok || i < 0 || m.Layers[i].Size > sign.MaxPayload {
		return doc, false, nil
	}
	doc.Signature = a.Signature
	doc.Payload, err = ReadBlob(ctx, l, m.Layers[i])
	return doc, true, err
}
