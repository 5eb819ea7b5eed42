package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/remove"
)

// Store keeps images in an OCI layout directory of this host. Blobs are written
// whole or not at all; several goroutines may import the same image at once.
type Store struct {
	*Layout
	// Trusted, if set, tells which signed documents about an image are kept before all others, by the fingerprint of
	// the key; empty is that of others.
	Trusted func(digest.Digest, sign.Signature) string
	// Held, if set, tells which images are in use whether they have a name or
	// not: neither Prune nor GC takes them. It is called under the store's lock.
	Held func() []digest.Digest
	// Aside is what OpenStore has set aside, as it was damaged; nil is nothing.
	Aside *aside.Moved

	mu       sync.Mutex // guards the maps, and the blobs that nothing names from GC
	pins     map[digest.Digest]int
	added    map[digest.Digest]bool
	writing  map[string]*writing // downloads that are under way, by their files
	fetching keylock.Map         // of those files
	known    known
	// misleading are layers whose table has misled, by the repository and their digest: see misled.
	misleading map[string]bool
}

// OpenStore opens or makes a store.
func OpenStore(dir string, l image.Limits) (*Store, error) {
	s := &Store{pins: map[digest.Digest]int{}, added: map[digest.Digest]bool{},
		writing: map[string]*writing{}}
	err := durable.MkdirAll(dir, 0o700)
	if err == nil {
		s.Layout, err = open(dir, l)
	}
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.mode = 0o600
	if err := s.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("image store: %w", err), s.Close())
	}
	return s, nil
}

// begin makes what is missing and sets aside what cannot be read.
func (s *Store) begin() error {
	err := s.prepare(0o700)
	s.temp = false
	if err == nil {
		// What was being imported when the last daemon ended is of no use.
		err = s.clearTemp()
	}
	if err != nil {
		return err
	}
	if _, err = s.Index(); err == nil || errors.Is(err, fs.ErrPermission) {
		return err
	}
	s.Aside, err = aside.Move(filepath.Join(s.dir, indexFile), err)
	return err
}

func (s *Store) clearTemp() error {
	entries, err := s.Temps()
	for _, e := range entries {
		_ = remove.Tree(filepath.Join(s.dir, tempDir, e.Name())) // nothing needs its name; the next opening tries again
	}
	return err
}

// Get finds an image by its name (with or without :latest), or by sha256: and its
// digest or the first digits of it, at least 12. Neither is taken for the other.
// The error is image.ErrNotFound, or tells that several digests begin so.
func (s *Store) Get(ref string) (*image.Image, error) {
	d, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(ref, "sha256:") && s.checkPin(d) != nil { // tasks may run it all the same
		if held, err := s.nameless(ref); err == nil {
			d = held
		}
	}
	return s.load(d)
}

// minDigest is how much of a digest has to be given: an image whose digest has
// fewer digits in common with another's is soon made.
const minDigest = 12

func (s *Store) find(ref string) (ocispec.Descriptor, error) {
	all, err := s.entries()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	hex, byDigest := strings.CutPrefix(ref, "sha256:")
	if !byDigest {
		for _, d := range all {
			if ref != "" && imagename.Same(d.Annotations[refName], ref) {
				return d, nil
			}
		}
		return ocispec.Descriptor{}, image.NotFound(ref)
	}
	var found *ocispec.Descriptor
	for i, d := range all {
		if len(hex) < minDigest || !strings.HasPrefix(d.Digest.Encoded(), hex) {
			continue
		}
		if found != nil && found.Digest != d.Digest {
			err = fmt.Errorf("%q is ambiguous: several digests begin with it", ref)
		}
		if found == nil || s.standing(d) < s.standing(*found) { // one good name for everybody is enough
			found = &all[i]
		}
	}
	if found == nil {
		return s.nameless(ref)
	}
	return *found, err
}

// standing orders the names of one image: those for everybody are first, and those of a false digest last.
func (s *Store) standing(d ocispec.Descriptor) int {
	switch {
	case s.checkPin(d) != nil:
		return 2
	case private(d):
		return 1
	}
	return 0
}

// Names are those that an image has in the store, the newest first.
func (s *Store) Names(d digest.Digest) (out []string, err error) {
	all, err := s.entries()
	for _, m := range all {
		if m.Digest == d {
			out = append(out, m.Annotations[refName])
		}
	}
	return out, err
}

// nameless finds an image in use by its whole digest: it may have lost its name
// to another.
func (s *Store) nameless(ref string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	held := s.held()[digest.Digest(ref)]
	s.mu.Unlock()
	if held {
		d := ocispec.Descriptor{Digest: digest.Digest(ref)}
		if b, err := s.ReadBlob(d); err == nil {
			d.Size = int64(len(b))
			return d, nil
		}
	}
	return ocispec.Descriptor{}, image.NotFound(ref)
}

// Hold keeps an image and its blobs from Prune and GC until release is called.
// It is image.ErrNotFound where the image is gone already.
func (s *Store) Hold(img *image.Image) (release func(), err error) {
	d := ocispec.Descriptor{Digest: img.Digest}
	s.pin([]ocispec.Descriptor{d}) // from now on a GC spares it
	release = sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unpinLocked([]ocispec.Descriptor{d})
	})
	for _, b := range append([]ocispec.Descriptor{d}, img.Layers...) {
		if _, err := s.StatBlob(b.Digest); err != nil {
			release()
			return nil, fmt.Errorf("%w: %s: %w", image.ErrNotFound, img.Digest, err)
		}
	}
	if img.Name == "" {
		return release, nil
	}
	if _, err := s.find(img.Name); err != nil { // it was forgotten just before
		release()
		return nil, err
	}
	return release, nil
}

// UnreadableError is an image of the store that cannot be read, such as one that
// an earlier version took and this one refuses.
type UnreadableError struct {
	Name   string
	Digest digest.Digest
	Err    error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("image %q cannot be read: %v: remove it by `freejail images rm %s`, and pull or import it again",
		e.Name, e.Err, e.Name)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

func (s *Store) unreadable(d ocispec.Descriptor, err error) error {
	return &UnreadableError{d.Annotations[refName], d.Digest, err}
}

// All goes through all images by name. One that cannot be read is an
// *UnreadableError in its place; any other error is the last. Images are read one by one, as all together can be large.
func (s *Store) All() iter.Seq2[*image.Image, error] {
	return func(yield func(*image.Image, error) bool) {
		idx, err := s.Index()
		if err != nil {
			yield(nil, err)
			return
		}
		name := func(d ocispec.Descriptor) string { return d.Annotations[refName] }
		slices.SortFunc(idx.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(name(a), name(b)) })
		for _, d := range idx.Manifests {
			img, err := s.load(d)
			if err != nil {
				err = s.unreadable(d, err)
			}
			if !yield(img, err) {
				return
			}
		}
	}
}

// Remove forgets an image's name; by a digest it forgets all its names. Its
// blobs stay until GC.
func (s *Store) Remove(ref string) error {
	_, _, err := s.Untag(ref)
	return err
}

// Untag is Remove that tells of which image it was, and the names that went, by their order; none of an image in use
// that had none.
func (s *Store) Untag(ref string) (of digest.Digest, names []string, err error) {
	gone, err := s.find(ref)
	if err != nil {
		return "", nil, err
	}
	byName := !strings.HasPrefix(ref, "sha256:")
	err = s.Update(func(idx *ocispec.Index) error {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			name := d.Annotations[refName]
			if d.Digest != gone.Digest || byName && name != gone.Annotations[refName] {
				return false
			}
			names = append(names, name)
			return true
		})
		return nil
	})
	slices.Sort(names)
	return gone.Digest, names, err
}

// setName makes a name mean an image, and no other any more.
func (s *Store) setName(d ocispec.Descriptor) error {
	return s.Update(func(idx *ocispec.Index) error {
		others := slices.DeleteFunc(idx.Manifests, func(m ocispec.Descriptor) bool {
			return imagename.Same(m.Annotations[refName], d.Annotations[refName])
		})
		idx.Manifests = append([]ocispec.Descriptor{d}, others...)
		return nil
	})
}

// named is the entry of an image under a name.
func named(d ocispec.Descriptor, name string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
		Annotations: map[string]string{refName: name}}
}

// Description returns an image's OCI manifest and config as they are stored.
func (s *Store) Description(img *image.Image) (manifest, config []byte, err error) {
	d, err := s.find(img.Digest.String())
	if err != nil {
		return nil, nil, err
	}
	if manifest, err = s.ReadBlob(d); err != nil {
		return nil, nil, err
	}
	m, err := document.ReadManifest(manifest, d.MediaType)
	if err != nil {
		return nil, nil, fmt.Errorf("image manifest %s: %w", d.Digest, err)
	}
	config, err = s.ReadBlob(m.Config)
	return manifest, config, err
}
