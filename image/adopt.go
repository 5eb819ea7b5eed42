package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AddFile stores a blob that a file holds, by a hard link where both are on one
// file system. Of the content only the size is checked here: whoever reads the
// blob verifies it. GC spares it as it does what Add has stored.
func (s *Store) AddFile(ctx context.Context, file string, d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	fi, err := os.Stat(file)
	if err == nil && fi.Size() != d.Size {
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, fi.Size(), d.Size)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.added[d.Digest] = true
	s.mu.Unlock()
	if err := os.Link(file, s.blobPath(d.Digest)); err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(s.putBlob(ctx, f, d), f.Close())
}

// CopyBlob gives a blob of the store a second name outside of it, by a hard link
// where both are on one file system. The name must be free.
func (s *Store) CopyBlob(ctx context.Context, d ocispec.Descriptor, file string) (err error) {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if err := os.Link(s.blobPath(d.Digest), file); err == nil || errors.Is(err, os.ErrExist) {
		return err
	}
	in, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = copyAll(out, newVerifier(ctxReader{ctx, in}, d))
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(full(err), os.Remove(file))
	}
	return nil
}

// Adopt names an image all of whose blobs are in the store: d is its manifest's.
func (s *Store) Adopt(name string, d ocispec.Descriptor) (*Image, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	named := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{refName: name}}
	img, err := s.load(named)
	if err != nil {
		return nil, err
	}
	for i, l := range img.Layers {
		if fi, err := os.Stat(s.blobPath(l.Digest)); err != nil {
			return nil, fmt.Errorf("layer %d is not in the store: %w", i+1, err)
		} else if fi.Size() != l.Size {
			return nil, fmt.Errorf("layer %d (%s) has %d bytes, its descriptor says %d", i+1, l.Digest, fi.Size(), l.Size)
		}
	}
	return img, s.setName(named)
}

// Blobs are the descriptors of an image's manifest, config and layers.
func (s *Store) Blobs(ref string) ([]ocispec.Descriptor, error) {
	d, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	m, err := s.manifestOf(d)
	if err != nil {
		return nil, err
	}
	return append([]ocispec.Descriptor{d, m.Config}, m.Layers...), nil
}
