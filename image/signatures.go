package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/durable"
)

// signatureFile is, in a store, that of an image with signatures.
func signatureFile(d digest.Digest) string { return "signatures/" + d.Encoded() + ".json" }

func (s *Store) signatureDir() string { return filepath.Join(s.dir, "signatures") }

// Signatures are what is known of an image's signatures. None of them is
// verified.
func (s *Store) Signatures(d digest.Digest) (sign.Record, error) { return readSignatures(s.root, d) }

// Signatures are what a store's directory keeps of an image's signatures. Other
// layouts have them among their images.
func (l *Directory) Signatures(d digest.Digest) (sign.Record, error) {
	return readSignatures(l.root, d)
}

func readSignatures(root *os.Root, d digest.Digest) (r sign.Record, err error) {
	if err := checkDigest(d); err != nil {
		return r, err
	}
	b, err := readSmall(root, signatureFile(d), sign.MaxRecord)
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
	if err := durable.MkdirAll(s.signatureDir(), 0o700); err != nil {
		return full(err)
	}
	return writeFile(s.tmpDir(), filepath.Join(s.dir, signatureFile(d)), b)
}

// sweepSignatures removes those of images that are gone. The caller holds the
// lock.
func (s *Store) sweepSignatures(used map[digest.Digest]bool) error {
	entries, err := os.ReadDir(s.signatureDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".json")); !used[d] {
			err = errors.Join(err, os.Remove(filepath.Join(s.signatureDir(), e.Name())))
		}
	}
	return err
}

// signatures are those that lie in a layout beside an image.
func (in *source) signatures(d digest.Digest) (r sign.Record, err error) {
	b, err := readSmall(in.root, ocispec.ImageIndexFile, document.MaxBytes)
	if err != nil {
		return r, err
	}
	idx, err := document.ReadIndex(b, ocispec.MediaTypeImageIndex)
	if err != nil {
		return r, fmt.Errorf("image index: %w", err)
	}
	r.Indexes = in.indexes
	digests := []digest.Digest{d}
	for _, index := range in.indexes {
		digests = append(digests, digest.FromBytes(index))
	}
	for _, m := range idx.Manifests {
		for _, signed := range digests {
			if name := m.Annotations[refName]; name != sign.Tag(signed) {
				continue
			}
			b, err := in.smallBlob(m)
			if err != nil {
				return r, err
			}
			list, err := sign.Parse(b, m.MediaType, in.smallBlob)
			if err != nil {
				return r, err
			}
			r.Signatures = append(r.Signatures, list...)
		}
	}
	return r, nil
}
