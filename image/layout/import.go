package layout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/regular"
)

// MaxNames is how many images one archive can have by their names, when it is saved too.
const MaxNames = 200

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
	err = s.reading(ctx, from, o, func(l *reading, o FetchOptions) error {
		img, err = s.importAs(ctx, l, name, name, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return img, nil
}

// ImportEach visits the images of an archive or a layout by the names that it gives them; empty is the name of the
// only one, without one. Import takes the image into the store, under a name as ImportInput does, and need not be
// called. An error of visit ends it. left counts images without a name beside others, which are not visited.
func (s *Store) ImportEach(ctx context.Context, from *Input, o FetchOptions,
	visit func(own string, take func(name string) (*image.Image, error)) error) (left int, err error) {
	err = s.reading(ctx, from, o, func(l *reading, o FetchOptions) error {
		names, nameless, err := l.ownNames(ctx)
		if err != nil {
			return err
		}
		l.several = len(names) > 1
		left = nameless
		for _, own := range names {
			err := visit(own, func(name string) (*image.Image, error) { return s.importAs(ctx, l, own, name, o) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// reading calls f with a layout of what is open, which is gone after that, and with the options for it.
func (s *Store) reading(ctx context.Context, from *Input, o FetchOptions,
	f func(*reading, FetchOptions) error) (err error) {
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	if err := imports.Acquire(ctx, 1); err != nil {
		return err
	}
	defer imports.Release(1)
	l, err := from.layout(ctx, extraction{filepath.Join(s.dir, tempDir), s.limits, true, o.Progress})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if l.own { // what was told was of the archive
		o.Progress = nil
	}
	r, err := l.read()
	if err != nil {
		return err
	}
	return f(r, o)
}

// importAs takes an image of a layout, whose name there is own, under a name, or under its own if that is empty.
func (s *Store) importAs(ctx context.Context, l *reading, own, name string, o FetchOptions) (*image.Image, error) {
	found, err := l.choose(ctx, o.Wanted, own)
	if err != nil {
		return nil, err
	}
	signed, err := l.signatures(ctx, found)
	if err != nil {
		return nil, err
	}
	approved, err := l.approvals(ctx, found.Digest, s.Trusted)
	if err != nil {
		return nil, err
	}
	if o.Named != nil && found.name != "" {
		o.Named(found.name)
	}
	name = cmp.Or(name, found.name, found.Digest.Encoded()[:12])
	o.Indexes = found.indexes
	img, err := s.Fetch(ctx, l.Layout, found.Descriptor, name, o)
	if err != nil {
		return nil, err
	}
	return img, errors.Join(s.AddSignatures(img.Digest, signed), s.AddApprovals(img.Digest, approved))
}

// ownNames are the names that a layout of somebody else gives its images, each once; one that is empty is that of the
// only image. Nameless counts images that have none beside others. More than MaxNames are an error.
func (l *reading) ownNames(ctx context.Context) (names []string, nameless int, err error) {
	known := map[digest.Digest]bool{}
	for _, d := range l.index.Manifests {
		own := image.OwnName(d)
		if own == "" || image.IsArtifact(d) {
			continue
		}
		known[d.Digest] = true
		if !slices.ContainsFunc(names, func(n string) bool { return imagename.Same(n, own) }) {
			names = append(names, own)
		}
		if len(names) > MaxNames {
			return nil, 0, fmt.Errorf("%s gives its images more than %d names: an archive has at most so many", l.name,
				MaxNames)
		}
	}
	for _, d := range l.index.Manifests {
		if image.OwnName(d) != "" || known[d.Digest] {
			continue
		}
		if known[d.Digest] = true; l.isImage(ctx, d) {
			nameless++
		}
	}
	if len(names) == 0 {
		return []string{""}, 0, nil
	}
	return names, nameless, nil
}

// isImage tells an image or an index from what is attached to one.
func (l *Layout) isImage(ctx context.Context, d ocispec.Descriptor) bool {
	if !document.IsImage(d.MediaType) || image.IsArtifact(d) {
		return document.IsIndex(d.MediaType)
	}
	b, err := ReadBlob(ctx, l, d)
	if err != nil {
		return true // and nothing that could be taken
	}
	m, err := document.ReadManifest(b, d.MediaType)
	return err != nil || m.Subject == nil && document.IsConfig(m.Config.MediaType)
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
	file := filepath.Join(l.dir, blobName(d.Digest))
	if l.several { // another image may have it too
		link := filepath.Join(l.dir, "given-"+d.Digest.Encoded())
		if err := os.Link(file, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		file = link
	}
	return os.Rename(file, filepath.Join(to.dir, blobName(d.Digest)))
}

// choice is an image of a layout that somebody else has made.
type choice struct {
	ocispec.Descriptor
	name    string   // that the layout gives it; empty is none
	indexes [][]byte // within the layout's own, that led to it
}

// choose goes from the index to the one image that is wanted.
func (l *reading) choose(ctx context.Context, wanted []ocispec.Platform, name string) (choice, error) {
	get := func(d ocispec.Descriptor) (ocispec.Index, []byte, error) { return l.indexOf(ctx, d) }
	d, own, indexes, err := image.Narrow(get, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, wanted, name)
	if err != nil {
		return choice{}, err
	}
	return choice{d, own, indexes[1:]}, nil
}

// noLayout explains why there is no index; nil is no error.
func (l *Layout) noLayout(err error) error {
	if err != nil {
		err = fmt.Errorf("%s is not an OCI layout or oci-archive, a docker-archive or a dir: %w", l.name, err)
	}
	if err != nil && l.own {
		err = fmt.Errorf("%w (`freejail-build import` makes an image of an archive of files)", err)
	}
	return err
}

func (l *Layout) foreignIndex() ([]byte, error) {
	return regular.ReadIn(l.root, indexFile, document.MaxBytes)
}
