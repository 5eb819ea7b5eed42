package layout

import (
	"context"
	"encoding"
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

// besideFile is, in a store, that of an image in the directory of what is kept beside images.
func besideFile(dir string, d digest.Digest) string { return path.Join(dir, d.Encoded()+".json") }

// readBeside reads what a store's directory keeps beside an image, which may be nothing.
func (l *Layout) readBeside(dir string, d digest.Digest, limit int64, into encoding.TextUnmarshaler) error {
	if err := document.CheckDigest(d); err != nil {
		return err
	}
	b, err := regular.ReadIn(l.root, besideFile(dir, d), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = into.UnmarshalText(b)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", dir, d, err)
	}
	return nil
}

// writeBeside keeps it. The caller holds the lock.
func (s *Store) writeBeside(dir string, d digest.Digest, b []byte) error {
	if err := durable.MkdirAllIn(s.root, dir, 0o700); err != nil {
		return blob.ExplainNoSpace(err)
	}
	return s.writeFile(besideFile(dir, d), b)
}

// Signatures are what a store's directory keeps of an image's signatures, none of
// them verified. Other layouts have them among their images.
func (l *Layout) Signatures(d digest.Digest) (r sign.Record, err error) {
	err = l.readBeside(signatureDir, d, sign.MaxRecord, &r)
	return r, err
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
	return s.writeBeside(signatureDir, d, b)
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

// maxSigned bounds the manifests with signatures that are read of one image of an archive or a layout: there is one for
// the image, and one for each index that led to it.
const maxSigned = 10

// signatures are those that lie beside an image, or beside an index that led to it.
func (r *reading) signatures(ctx context.Context, found choice) (out sign.Record, err error) {
	out.Indexes = found.indexes
	tags := map[string]bool{sign.Tag(found.Digest): true}
	for _, index := range found.indexes {
		tags[sign.Tag(digest.FromBytes(index))] = true
	}
	read := func(d ocispec.Descriptor) ([]byte, error) { return ReadBlob(ctx, r.Layout, d) }
	seen := map[digest.Digest]bool{}
	for _, m := range r.index.Manifests {
		if !tags[m.Annotations[refName]] || seen[m.Digest] {
			continue
		}
		if seen[m.Digest] = true; len(seen) > maxSigned {
			return out, fmt.Errorf("signatures of %s: more than %d manifests have its tag", found.Digest, maxSigned)
		}
		b, err := read(m)
		if err != nil {
			return out, err
		}
		list, err := sign.Parse(b, m.MediaType, read)
		if err != nil {
			return out, err
		}
		out.Signatures = append(out.Signatures, list...)
	}
	return out, nil
}
