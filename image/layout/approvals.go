package layout

import (
	"cmp"
	"context"

	"github.com/opencontainers/go-digest"

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
	var trusted func(sign.Signature) string
	if s.Trusted != nil {
		trusted = func(doc sign.Signature) string { return s.Trusted(d, doc) }
	}
	list.Merge(more, trusted)
	b, err := list.MarshalText()
	if err != nil {
		return err
	}
	return s.writeBeside(approvalDir, d, b)
}

// Bounds of the approvals that are read of one image of an archive or a layout: of those by each
// key that is trusted, and as many others; and of what is looked at for them.
const (
	maxBeside = 100
	maxLooked = 1000
)

// approvals are those that refer to an image of the layout, once each, and those that
// are trusted first.
func (r *reading) approvals(ctx context.Context, to digest.Digest,
	trusted func(digest.Digest, sign.Signature) string) (sign.Documents, error) {
	attached, err := r.attachments(ctx)
	if err != nil {
		return nil, err
	}
	var known, others sign.Documents
	seen, n := map[[2]string]bool{}, map[string]int{}
	for _, a := range attached[to] {
		doc := a.Signature
		if doc.Payload, err = ReadBlob(ctx, r.Layout, a.payload); err != nil {
			return nil, err
		}
		by := ""
		if trusted != nil {
			by = trusted(to, doc)
		}
		this := [2]string{a.payload.Digest.String(), cmp.Or(by, string(doc.Signature))}
		if seen[this] {
			continue
		}
		if seen[this] = true; n[by] == maxBeside {
			continue
		}
		if n[by]++; by != "" {
			known = append(known, doc)
		} else {
			others = append(others, doc)
		}
	}
	return append(known, others...), nil
}
