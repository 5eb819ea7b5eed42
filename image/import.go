package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// Import takes an image from an OCI layout directory or an oci-archive (tar,
// also in gzip, zstd or xz) into the store, under a name or the archive's own.
// Of several images it takes the one for this host's platform. Every blob's
// digest and size is verified; on error the store is as before. Concurrent
// imports, of the same archive too, do not disturb each other. Progress, which
// may be nil, is told how much of the archive was read, or of the layout's layers.
func (s *Store) Import(ctx context.Context, path, name string, progress func(Progress)) (*Image, error) {
	return s.importPath(ctx, path, name, HostPlatforms(), progress)
}

// ImportInput is Import from what is open already. It stays open.
func (s *Store) ImportInput(ctx context.Context, from *Input, name string, progress func(Progress)) (*Image, error) {
	return s.importFor(ctx, from, name, HostPlatforms(), progress)
}

// ImportInputFor is ImportFor from what is open already. It stays open.
func (s *Store) ImportInputFor(ctx context.Context, from *Input, name string, p ocispec.Platform, progress func(Progress)) (*Image, error) {
	return s.importFor(ctx, from, name, Platforms(p), progress)
}

// ImportFor is Import for another platform, as a tool for image authors needs
// it: only an image of that OS and architecture is taken. The zero platform
// means any, the host's first.
func (s *Store) ImportFor(ctx context.Context, path, name string, p ocispec.Platform, progress func(Progress)) (*Image, error) {
	return s.importPath(ctx, path, name, Platforms(p), progress)
}

// Platforms are what a choice for one platform takes, the best first; the zero
// platform means any, the host's first.
func Platforms(p ocispec.Platform) []ocispec.Platform {
	if p.OS == "" && p.Architecture == "" {
		return append(HostPlatforms(), anyPlatform)
	}
	return []ocispec.Platform{p}
}

func (s *Store) importPath(ctx context.Context, path, name string, wanted []ocispec.Platform, progress func(Progress)) (img *Image, err error) {
	from, err := OpenInput(path, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	return s.importFor(ctx, from, name, wanted, progress)
}

func (s *Store) importFor(ctx context.Context, from *Input, name string, wanted []ocispec.Platform, progress func(Progress)) (img *Image, err error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if name != "" {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	if err := imports.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer imports.Release(1)
	in := &source{store: s, path: from.path, root: from.root, limits: s.limits}
	if in.root == nil {
		read := Progress{Size: from.info.Size()}
		if err := in.extract(ctx, from.file, func(n int) { read.Done += int64(n); progress(read) }); err != nil {
			return nil, err
		}
	}
	defer func() { err = errors.Join(err, in.close()) }()
	d, own, err := in.find(wanted, name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if name = own; name == "" {
			name = d.Digest.Encoded()[:12]
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	signed, err := in.signatures(d.Digest)
	if err != nil {
		return nil, err
	}
	if img, err = s.take(ctx, in, d, name, wanted, progress); err != nil {
		return nil, err
	}
	return img, s.AddSignatures(img.Digest, signed)
}

// take copies what an image consists of, and names it when all is there.
func (s *Store) take(ctx context.Context, in *source, d ocispec.Descriptor, name string, wanted []ocispec.Platform, progress func(Progress)) (img *Image, err error) {
	m, err := examine(in.smallBlob, d, wanted, in.limits)
	if err != nil {
		return nil, err
	}
	blobs := append([]ocispec.Descriptor{d, m.Config}, m.Layers...)
	s.pin(blobs)
	defer func() { err = errors.Join(err, s.unpin(blobs, err != nil)) }()
	copied := Progress{Layers: len(m.Layers)}
	for _, l := range m.Layers {
		copied.Size += l.Size
	}
	for i, blob := range blobs {
		if err := in.copyBlob(ctx, blob); err != nil {
			if i >= 2 {
				err = fmt.Errorf("layer %d: %w", i-1, err)
			}
			return nil, err
		}
		if i >= 2 && in.own == "" { // else they are moved at once
			copied.Done, copied.LayersDone = copied.Done+blob.Size, copied.LayersDone+1
			progress(copied)
		}
	}
	named := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
		Annotations: map[string]string{refName: name}}
	if img, err = s.load(named); err != nil {
		return nil, err
	}
	if err := s.setName(named); err != nil {
		return nil, err
	}
	return img, nil
}

// source is a layout to import from.
type source struct {
	store  *Store // nil where nothing is copied
	path   string // as the caller named it, for messages
	root   *os.Root
	limits Limits
	own    string                  // the directory, where the files are ours to move into the store
	moved  map[digest.Digest]int64 // sizes of those that were
	// indexes are those, within the layout's own, that led to the image.
	indexes [][]byte
}

// extract makes a layout of our own from an archive. Its blobs are verified.
func (in *source) extract(ctx context.Context, archive io.Reader, read func(n int)) error {
	dir, err := os.MkdirTemp(in.store.tmpDir(), "import-")
	if err != nil {
		return full(err)
	}
	if err = extractLayout(ctx, archive, in.path, dir, in.limits, true, read); err == nil {
		in.root, err = os.OpenRoot(dir)
	}
	if err != nil {
		return errors.Join(full(err), os.RemoveAll(dir))
	}
	in.own = dir
	return nil
}

func (in *source) close() error {
	if in.own == "" {
		return nil // it is the caller's
	}
	return errors.Join(in.root.Close(), os.RemoveAll(in.own))
}

// copyBlob brings a blob into the store, verified.
func (in *source) copyBlob(ctx context.Context, d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	name := "blobs/sha256/" + d.Digest.Encoded()
	f, size, err := openRegular(in.root, name)
	if errors.Is(err, os.ErrNotExist) && in.own != "" {
		// An image can name one blob twice; the first time moved it. What the store
		// has of others' images does not stand in for a blob that is missing.
		if size, moved := in.moved[d.Digest]; moved && size == d.Size {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("blob %s is missing: %w", d.Digest, err)
	}
	if size != d.Size {
		return errors.Join(fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, size, d.Size), f.Close())
	}
	if in.own == "" {
		return errors.Join(in.store.putBlob(ctx, f, d), f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return full(err)
	}
	if in.moved == nil {
		in.moved = map[digest.Digest]int64{}
	}
	in.moved[d.Digest] = d.Size
	return os.Rename(filepath.Join(in.own, filepath.FromSlash(name)), in.store.blobPath(d.Digest))
}

// openRegular opens a file that may have been put there by someone hostile: a
// FIFO must not make us wait.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	f, fi, err := regular.OpenIn(root, name)
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

func readSmall(root *os.Root, name string, limit int64) (b []byte, err error) {
	f, size, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func (in *source) smallBlob(d ocispec.Descriptor) (b []byte, err error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	f, _, err := openRegular(in.root, blobName(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("blob %s is missing: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if d.Size < 0 || d.Size > document.MaxBytes {
		return nil, fmt.Errorf("blob %s: %d bytes are over the limit of %d", d.Digest, d.Size, document.MaxBytes)
	}
	return io.ReadAll(newVerifier(f, d))
}

// examine verifies an image's manifest and config, so that what cannot be
// unpacked later is refused before any layer is copied.
func examine(small func(ocispec.Descriptor) ([]byte, error), d ocispec.Descriptor, wanted []ocispec.Platform, limits Limits) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	b, err := small(d)
	if err != nil {
		return m, fmt.Errorf("image manifest: %w", err)
	}
	if m, err = document.ReadManifest(b, d.MediaType); err != nil {
		return m, fmt.Errorf("image manifest: %w", err)
	}
	if !document.IsConfig(m.Config.MediaType) {
		return m, fmt.Errorf("image manifest: the config's type %q is not that of an image", m.Config.MediaType)
	}
	if err := checkDescription(d.Size + m.Config.Size); err != nil {
		return m, err
	}
	if b, err = small(m.Config); err != nil {
		return m, fmt.Errorf("image config: %w", err)
	}
	c, err := document.ReadConfig(b, m.Config.MediaType)
	if err != nil {
		return m, fmt.Errorf("image config: %w", err)
	}
	if c.OS != "" && !fitsAny(&c.Platform, wanted) {
		return m, fmt.Errorf("the image is for %s, wanted is %s", platformText(&c.Platform), platformsText(wanted))
	}
	if _, err := describe(c, m.Layers); err != nil {
		return m, err
	}
	var total int64
	for i, l := range m.Layers {
		if total += l.Size; l.Size < 0 || total < 0 || total > limits.ImageBytes {
			return m, fmt.Errorf("layer %d: the image is over the limit of %d bytes (limits { image_size })", i+1, limits.ImageBytes)
		}
	}
	return m, nil
}
