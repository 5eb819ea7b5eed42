package layout

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/regular"
)

// pin keeps blobs from GC, and from a failing import of another image with the
// same layers, until unpin.
func (s *Store) pin(list []ocispec.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range list {
		s.pins[d.Digest]++
	}
}

// unpin also deletes those that nothing needs, if the import has failed.
func (s *Store) unpin(list []ocispec.Descriptor, failed bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpinLocked(list)
	if !failed {
		return nil
	}
	used, err := s.usedBlobs()
	if err != nil {
		return err
	}
	for _, d := range list {
		if document.CheckDigest(d.Digest) != nil || used[d.Digest] {
			continue // a malformed one was never stored
		}
		if rerr := s.DeleteBlob(d.Digest); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

func (s *Store) unpinLocked(list []ocispec.Descriptor) {
	for _, d := range list {
		if s.pins[d.Digest]--; s.pins[d.Digest] <= 0 {
			delete(s.pins, d.Digest)
		}
	}
}

// usedBlobs are those of the named images and of those in use, of running
// imports, and those that Add has stored. Of an image that cannot be read it is
// whatever its manifest may name. The caller holds the lock.
func (s *Store) usedBlobs() (map[digest.Digest]bool, error) {
	idx, err := s.Index()
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	use := func(d ocispec.Descriptor) error {
		m, err := s.manifestOf(d)
		if err != nil {
			return err
		}
		used[m.Config.Digest] = true
		for _, l := range m.Layers {
			used[l.Digest] = true
		}
		return nil
	}
	for _, d := range idx.Manifests {
		used[d.Digest] = true
		if err := use(d); err == nil {
			continue
		}
		// One that is refused must not keep all others from being collected.
		if err := s.useAnyOf(d, used); err != nil {
			return nil, err
		}
	}
	for d := range s.held() {
		used[d] = true
		// What is pinned may be a blob that is no manifest, or not there yet.
		_ = use(ocispec.Descriptor{Digest: d})
	}
	for d := range s.added {
		used[d] = true
	}
	return used, nil
}

var anyDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// useAnyOf keeps whatever a manifest that cannot be read names, in any way that
// it can be read. Where the disk does not give it, nothing is known to be unused.
func (s *Store) useAnyOf(d ocispec.Descriptor, used map[digest.Digest]bool) error {
	name, err := blobFile(d.Digest)
	if err != nil {
		return nil // it was never stored
	}
	b, err := regular.ReadIn(s.root, name, document.MaxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return s.unreadable(d, err)
	}
	for _, name := range anyDigest.FindAll(b, -1) {
		used[digest.Digest(name)] = true
	}
	return nil
}

// held are the images in use, and the blobs of running imports. The caller
// holds the lock.
func (s *Store) held() map[digest.Digest]bool {
	out := map[digest.Digest]bool{}
	for d := range s.pins {
		out[d] = true
	}
	if s.Held != nil {
		for _, d := range s.Held() {
			out[d] = true
		}
	}
	return out
}

// Damaged are the indexes that were set aside and are there still, by path.
func (s *Store) Damaged() ([]string, error) { return aside.In(s.dir) }

// GC deletes the blobs that no image names, and what broken downloads have left, and returns how many bytes that
// freed; none while an index is Damaged. Imports may run at the same time.
func (s *Store) GC(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used, err := s.usedBlobs()
	if err != nil {
		return 0, err
	}
	// What a damaged index named is needed when that is mended.
	if damaged, err := s.Damaged(); err != nil || len(damaged) > 0 {
		return 0, err
	}
	blobs, err := s.Blobs()
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, fi := range blobs {
		if used[digest.NewDigestFromEncoded(digest.SHA256, fi.Name())] {
			continue
		}
		if err = ctx.Err(); err == nil {
			err = s.root.Remove(path.Join(blobDir, fi.Name()))
		}
		if err != nil {
			return freed, err
		}
		freed += fi.Size()
	}
	partial, err := s.sweepPartial(0)
	return freed + partial, errors.Join(err, s.sweepSignatures(used))
}

// Usage tells what the blobs of the store take on the disk, in bytes, with what is there of broken downloads, and how
// much of that GC would free.
func (s *Store) Usage() (all, free int64, err error) {
	s.mu.Lock()
	used, err := s.usedBlobs()
	s.mu.Unlock()
	if err != nil {
		return 0, 0, err
	}
	blobs, err := s.Blobs()
	if err != nil {
		return 0, 0, err
	}
	for _, fi := range blobs {
		n := onDisk(fi)
		all += n
		if !used[digest.NewDigestFromEncoded(digest.SHA256, fi.Name())] {
			free += n
		}
	}
	temps, err := s.Temps()
	for _, fi := range temps {
		all += onDisk(fi)
	}
	return all, free, err
}

// onDisk is what a file takes; its length where the system tells nothing else.
func onDisk(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}
