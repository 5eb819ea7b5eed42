package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/aside"
)

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: only sha256 is taken", d)
	}
	return nil
}

// verifier passes a blob on and ends with an error instead of io.EOF if it was
// not what its descriptor says.
type verifier struct {
	r    io.Reader
	d    ocispec.Descriptor
	hash hash.Hash
	n    int64
}

func newVerifier(r io.Reader, d ocispec.Descriptor) *verifier {
	return &verifier{r: r, d: d, hash: sha256.New()}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	v.hash.Write(p[:n])
	if v.n > v.d.Size {
		return 0, compare(v.d, v.n, v.hash)
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if err := compare(v.d, v.n, v.hash); err != nil {
		return n, err
	}
	return n, io.EOF
}

// ContentError is a blob that is not what its descriptor says.
type ContentError struct{ error }

// compare tells whether n bytes of a hash are what a descriptor says.
func compare(d ocispec.Descriptor, n int64, h hash.Hash) error {
	switch got := digest.NewDigest(digest.SHA256, h); {
	case n > d.Size:
		return &ContentError{fmt.Errorf("blob %s is longer than the %d bytes that its descriptor says", d.Digest, d.Size)}
	case n < d.Size:
		return &ContentError{fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, n, d.Size)}
	case got != d.Digest:
		return &ContentError{fmt.Errorf("blob %s has another content: its digest is %s", d.Digest, got)}
	}
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// putBlob stores what r gives if it is what the descriptor says.
func (s *Store) putBlob(ctx context.Context, r io.Reader, d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.tmpDir(), "blob-")
	if err != nil {
		return err
	}
	_, err = copyAll(f, newVerifier(ctxReader{ctx, r}, d))
	return s.keep(f, d.Digest, err)
}

// keep makes a temporary file the blob of a digest, or after an error removes
// it. It closes f.
func (s *Store) keep(f *os.File, d digest.Digest, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.blobPath(d))
	}
	if err != nil {
		return errors.Join(full(err), os.Remove(f.Name()))
	}
	return nil
}

// full says what to do about a full disk.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no room is left: make some, or remove images that are not needed and run `freejail gc`: %w", err)
	}
	return err
}

// copyAll copies through a large buffer.
func copyAll(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<18))
}

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
		if checkDigest(d.Digest) != nil || used[d.Digest] {
			continue // a malformed one was never stored
		}
		if rerr := os.Remove(s.blobPath(d.Digest)); !errors.Is(rerr, os.ErrNotExist) {
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
	idx, err := s.readIndex()
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
	if checkDigest(d.Digest) != nil {
		return nil
	}
	b, err := readSmall(s.root, blobName(d.Digest), document.MaxBytes)
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

// GC deletes the blobs that no image names and returns how many bytes that
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
	entries, err := os.ReadDir(s.blobDir())
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, e := range entries {
		if used[digest.NewDigestFromEncoded(digest.SHA256, e.Name())] {
			continue
		}
		fi, err := e.Info()
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = os.Remove(filepath.Join(s.blobDir(), e.Name()))
		}
		if err != nil {
			return freed, err
		}
		freed += fi.Size()
	}
	partial, err := s.sweepPartial()
	return freed + partial, errors.Join(err, s.sweepSignatures(used))
}
