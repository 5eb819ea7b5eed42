package layout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/durable"
)

// Add stores a blob, such as a layer that is being built, and returns its
// descriptor. GC spares it until Put names an image that has it, or the process
// ends.
func (s *Store) Add(ctx context.Context, mediaType string, r io.Reader) (ocispec.Descriptor, error) {
	f, err := s.Temp("")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	h := sha256.New()
	n, err := blob.Copy(io.MultiWriter(f, h), blob.WithContext(ctx, r))
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigest(digest.SHA256, h), Size: n}
	s.spare(d.Digest)
	return d, s.Keep(f, d.Digest, err)
}

// Put makes an image of a config and of layers that are in the store (by Add or
// by Import), under a name; annotations are the manifest's and may be nil.
// cfg.RootFS.DiffIDs must name the layers' uncompressed digests in order.
func (s *Store) Put(ctx context.Context, name string, cfg ocispec.Image, layers []ocispec.Descriptor,
	annotations map[string]string) (*image.Image, error) {
	return s.PutConfig(ctx, name, cfg, layers, annotations)
}

// PutConfig is Put with a config that has more fields than OCI's: see
// image.DockerConfig.
func (s *Store) PutConfig(ctx context.Context, name string, cfg any, layers []ocispec.Descriptor,
	annotations map[string]string) (*image.Image, error) {
	if err := image.CheckName(name); err != nil {
		return nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: append([]ocispec.Descriptor{}, layers...), Annotations: annotations}
	err := s.complete(layers)
	if err != nil {
		return nil, err
	}
	if m.Config, err = s.addJSON(ctx, ocispec.MediaTypeImageConfig, cfg); err != nil {
		return nil, err
	}
	d, err := s.addJSON(ctx, m.MediaType, m)
	if err != nil {
		return nil, err
	}
	img, err := s.Adopt(name, d)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range append([]ocispec.Descriptor{d, m.Config}, layers...) {
		delete(s.added, b.Digest)
	}
	return img, nil
}

func (s *Store) addJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.Add(ctx, mediaType, bytes.NewReader(b))
}

// path is where a blob lies, for a link.
func (s *Store) path(d digest.Digest) string { return filepath.Join(s.dir, blobName(d)) }

// AddFile stores a blob that a file holds, by a hard link where both are on one
// file system. Of the content only the size is checked here: whoever reads the
// blob verifies it. GC spares it as it does what Add has stored.
func (s *Store) AddFile(ctx context.Context, file string, d ocispec.Descriptor) error {
	if err := document.CheckDigest(d.Digest); err != nil {
		return err
	}
	fi, err := os.Stat(file)
	if err == nil && fi.Size() != d.Size {
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, fi.Size(), d.Size)
	}
	if err != nil {
		return err
	}
	s.spare(d.Digest)
	if err := os.Link(file, s.path(d.Digest)); err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(s.PutBlob(ctx, d, f), f.Close())
}

// CopyBlob gives a blob of the store a second name outside of it, by a hard link
// where both are on one file system and the name is free; else a verified copy
// replaces what has it.
func (s *Store) CopyBlob(ctx context.Context, d ocispec.Descriptor, file string) error {
	in, err := s.OpenBlob(d.Digest)
	if err != nil {
		return err
	}
	if os.Link(s.path(d.Digest), file) == nil {
		return in.Close()
	}
	err = durable.Replace(file, 0o600, func(w io.Writer) error {
		_, err := blob.Copy(w, blob.Verify(blob.WithContext(ctx, in), d))
		return err
	})
	return errors.Join(blob.ExplainNoSpace(err), in.Close())
}

// Adopt names an image all of whose blobs are in the store: d is its manifest's.
func (s *Store) Adopt(name string, d ocispec.Descriptor) (*image.Image, error) {
	entry, err := s.entry(d, name, nil)
	if err != nil {
		return nil, err
	}
	img, err := s.load(entry)
	if err == nil {
		err = s.complete(img.Layers)
	}
	if err != nil {
		return nil, err
	}
	return img, s.setName(entry)
}

// Tag gives an image of the store another name, which no other image has any more.
func (s *Store) Tag(img *image.Image, name string) (*image.Image, error) {
	d, err := s.find(img.Digest.String())
	if err != nil {
		return nil, err
	}
	return s.Adopt(name, d)
}

// complete tells whether all layers of an image are there.
func (l *Layout) complete(layers []ocispec.Descriptor) error {
	for i, d := range layers {
		size, err := l.StatBlob(d.Digest)
		if errors.Is(err, fs.ErrNotExist) && document.IsForeign(d.MediaType) {
			err = missingForeign(d)
		}
		if err != nil {
			return fmt.Errorf("layer %d is missing: %w", i+1, err)
		}
		if size != d.Size {
			return fmt.Errorf("layer %d (%s) has %d bytes, its descriptor says %d", i+1, d.Digest, size, d.Size)
		}
	}
	return nil
}

// spare keeps a blob from GC that no image has yet.
func (s *Store) spare(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added[d] = true
}

// BlobsOf are the descriptors of an image's manifest, config and layers.
func (s *Store) BlobsOf(ref string) ([]ocispec.Descriptor, error) {
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
