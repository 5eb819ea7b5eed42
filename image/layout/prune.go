package layout

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// Touch notes that an image is in use now, for Prune.
func (s *Store) Touch(img *image.Image) error {
	return s.TouchBlob(img.Digest)
}

// PruneOptions say which names Prune may forget.
type PruneOptions struct {
	Older   time.Duration // unused for longer than this; 0 forgets none by age
	MaxSize int64         // of all named images, in bytes; 0 is no limit
	// Unpacked, if set, tells what a chain takes on the disk beside the blobs.
	Unpacked func(chain digest.Digest) (int64, error)
	// Prunable says whether a name can be forgotten at all. No name for which
	// it is false goes, nor that of an image in use, also where the store stays
	// too large.
	Prunable func(name string, d digest.Digest) bool
}

// Prune forgets names that nobody has used for long, and then the longest
// unused ones while the images are larger than they may be. It returns the
// names; their blobs stay until GC.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []string
	err := s.Update(func(idx *ocispec.Index) (err error) {
		if gone, err = s.forget(ctx, idx, o); err == nil && len(gone) == 0 {
			err = errUnchanged
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

// forget takes names out of an index.
func (s *Store) forget(ctx context.Context, idx *ocispec.Index, o PruneOptions) (gone []string, err error) {
	list, err := s.prunable(*idx, o.Prunable)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, c := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		old := o.Older > 0 && now.Sub(c.used) > o.Older
		if !old && o.MaxSize > 0 {
			size, err := s.namedSize(*idx, o.Unpacked)
			if err != nil {
				return nil, err
			}
			old = size > o.MaxSize
		}
		if !old {
			continue
		}
		name := c.d.Annotations[refName]
		gone = append(gone, name)
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[refName] == name
		})
	}
	return gone, nil
}

type candidate struct {
	d    ocispec.Descriptor
	used time.Time
}

// prunable are the candidates, the longest unused first.
func (s *Store) prunable(idx ocispec.Index, may func(string, digest.Digest) bool) ([]candidate, error) {
	var list []candidate
	held := s.held()
	for _, d := range idx.Manifests {
		if may == nil || held[d.Digest] || !may(d.Annotations[refName], d.Digest) {
			continue
		}
		name, err := blobFile(d.Digest)
		if err != nil {
			continue // All tells of it
		}
		fi, err := s.root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			list = append(list, candidate{d: d}) // of no use to anyone
			continue
		}
		if err != nil {
			return nil, err
		}
		used := fi.ModTime()
		if now := time.Now(); used.After(now) { // the clock was ahead: it is unused from now on
			used = now
			if err := s.TouchBlob(d.Digest); err != nil {
				return nil, err
			}
		}
		list = append(list, candidate{d, used})
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return a.used.Compare(b.used) })
	return list, nil
}

// namedSize counts each blob and each chain of the named images once.
func (s *Store) namedSize(idx ocispec.Index, unpacked func(digest.Digest) (int64, error)) (int64, error) {
	seen, sum := map[digest.Digest]bool{}, int64(0)
	for _, d := range idx.Manifests {
		m, err := s.manifestOf(d)
		if err != nil {
			continue // All tells of it
		}
		for _, b := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
			if !seen[b.Digest] {
				seen[b.Digest] = true
				sum += b.Size
			}
		}
		img, err := s.load(d)
		if err != nil || unpacked == nil || seen[img.ChainID] {
			continue // what cannot be loaded is not unpacked
		}
		seen[img.ChainID] = true
		n, err := unpacked(img.ChainID)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
