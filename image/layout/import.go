package layout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// maxImports bounds imports at once, each of which holds an image's documents.
const maxImports = 8

var imports = semaphore.NewWeighted(maxImports)

// Import takes an image from an OCI layout, an oci-archive, a docker-archive or a dir
// (each a directory or a tar, also in gzip, bzip2, zstd or xz) into the store, under a
// name or the archive's own.
// Of several images it takes the one for this host's platform. Every blob's
// digest and size is verified; on error the store is as before. Concurrent
// imports, of the same archive too, do not disturb each other. Progress, which
// may be nil, is told how much of the archive was read, or of the layout's layers.
func (s *Store) Import(ctx context.Context, path, name string, progress func(image.Progress)) (*image.Image, error) {
	return s.importPath(ctx, path, name, FetchOptions{Progress: progress})
}

// ImportFor is Import for another platform, as a tool for image authors needs
// it: only an image of that OS and architecture is taken. The zero platform
// means any, the host's first.
func (s *Store) ImportFor(ctx context.Context, path, name string, p ocispec.Platform,
	progress func(image.Progress)) (*image.Image, error) {
	return s.importPath(ctx, path, name, FetchOptions{Wanted: image.Platforms(p), Progress: progress})
}

func (s *Store) importPath(ctx context.Context, path, name string, o FetchOptions) (img *image.Image, err error) {
	from, err := OpenInput(path, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	return s.ImportInput(ctx, from, name, o)
}

// ImportInput is Import from what is open already, and stays open.
func (s *Store) ImportInput(ctx context.Context, from *Input, name string,
	o FetchOptions) (img *image.Image, err error) {
	if name != "" {
		if err := image.CheckName(name); err != nil {
			return nil, err
		}
	}
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	if err := imports.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer imports.Release(1)
	l, err := from.layout(ctx, extraction{filepath.Join(s.dir, tempDir), s.limits, true, o.Progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if l.own { // what was told was of the archive
		o.Progress = nil
	}
	found, err := l.choose(ctx, o.Wanted, name)
	if err != nil {
		return nil, err
	}
	signed, err := l.signaturesBeside(ctx, found)
	if err != nil {
		return nil, err
	}
	approved, err := l.approvalsBeside(ctx, found.Digest, s.Trusted)
	if err != nil {
		return nil, err
	}
	if o.Named != nil && found.name != "" {
		o.Named(found.name)
	}
	name = cmp.Or(name, found.name, found.Digest.Encoded()[:12])
	if img, err = s.Fetch(ctx, l, found.Descriptor, name, o); err != nil {
		return nil, err
	}
	return img, errors.Join(s.AddSignatures(img.Digest, signed), s.AddApprovals(img.Digest, approved))
}

// give brings a blob into a store: the file itself where the layout is an
// archive's, whose blobs are verified, or else a verified copy.
func (l *Layout) give(ctx context.Context, to *Store, d ocispec.Descriptor) error {
	f, err := l.openSized(d)
	if err != nil {
		return err
	}
	if !l.own {
		return errors.Join(to.PutBlob(ctx, d, f), f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return blob.ExplainNoSpace(err)
	}
	return os.Rename(filepath.Join(l.dir, blobName(d.Digest)), filepath.Join(to.dir, blobName(d.Digest)))
}

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
			err = fmt.Errorf("%s is not an OCI layout or oci-archive, a docker-archive or a dir: %w", l.name, err)
		}
		if err != nil && l.own {
			err = fmt.Errorf("%w (`freejail-build import` makes an image of an archive of files)", err)
		}
		return b, err
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
