package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/regular"
)

// signatureDir has, in a store, what is known of images' signatures.
const signatureDir = "signatures"

// signatureFile is, in a store, that of an image with signatures.
func signatureFile(d digest.Digest) string { return path.Join(signatureDir, d.Encoded()+".json") }

// Signatures are what a store's directory keeps of an image's signatures, none of
// them verified. Other layouts have them among their images.
func (l *Layout) Signatures(d digest.Digest) (r sign.Record, err error) {
	if err := document.CheckDigest(d); err != nil {
		return r, err
	}
	b, err := regular.ReadIn(l.root, signatureFile(d), sign.MaxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = r.UnmarshalText(b)
	}
	if err != nil {
		return r, fmt.Errorf("signatures of %s: %w", d, err)
	}
	return r, nil
}

// AddSignatures keeps signatures beside an image that is in the store, for as
// long as it is.
func (s *Store) AddSignatures(d digest.Digest, more sign.Record) error {
	if len(more.Signatures) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.Signatures(d)
	if err != nil {
		r = sign.Record{} // a damaged file holds nothing that could be had no more
	}
	r.Merge(d, more)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.MkdirAllIn(s.root, signatureDir, 0o700); err != nil {
		return blob.ExplainNoSpace(err)
	}
	return s.writeFile(signatureFile(d), b)
}

// sweepSignatures removes those, and the approvals, of images that are gone. The caller
// holds the lock.
func (s *Store) sweepSignatures(used map[digest.Digest]bool) (err error) {
	for _, dir := range []string{signatureDir, approvalDir} {
		files, lerr := s.list(dir)
		if errors.Is(lerr, fs.ErrNotExist) {
			continue
		}
		err = errors.Join(err, lerr)
		for _, fi := range files {
			if d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(fi.Name(), ".json")); !used[d] {
				err = errors.Join(err, s.root.Remove(path.Join(dir, fi.Name())))
			}
		}
	}
	return err
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
