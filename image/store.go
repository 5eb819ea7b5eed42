package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/remove"
)

// ErrNotFound means that no image has this name or digest.
var ErrNotFound = errors.New("no such image")

// Limits bound what an image may unpack to. 0 is the default.
type Limits struct {
	LayerBytes int64 // default 8 GiB
	ImageBytes int64 // default 16 GiB
	Entries    int64 // default 1,000,000
}

func (l Limits) withDefaults() Limits {
	def := func(n *int64, v int64) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&l.LayerBytes, 8<<30)
	def(&l.ImageBytes, 16<<30)
	def(&l.Entries, 1_000_000)
	return l
}

// Image is one image of the store.
type Image struct {
	Name     string
	Digest   digest.Digest // of the OCI image manifest
	Config   ocispec.Image
	Manifest *Manifest // never nil; empty where the image has none
	Layers   []ocispec.Descriptor
	ChainID  digest.Digest
	Chains   []digest.Digest // of the first layer, the first two layers and so on; the last is ChainID
	Size     int64           // of the layers as they are stored
	Created  time.Time
	Pulled   bool // for a task, not by an operator's word; see FetchOptions
	Private  bool // had with credentials that not everybody here has; see FetchOptions
}

// Store keeps images in an OCI layout directory. Blobs are written whole or not
// at all; several goroutines may import the same image at once.
type Store struct {
	Layout
	// Held, if set, tells which images are in use whether they have a name or
	// not: neither Prune nor GC takes them. It is called under the store's lock.
	Held func() []digest.Digest
	// Aside is what OpenStore has set aside, as it was damaged; nil is nothing.
	Aside *aside.Moved

	dir      string
	mu       sync.Mutex // guards the index file and the maps
	pins     map[digest.Digest]int
	added    map[digest.Digest]bool
	fetching keylock.Map // of digests that are being fetched
}

// refName is the annotation that OCI layouts give a manifest's name with.
const refName = ocispec.AnnotationRefName

// OpenStore opens or makes a store.
func OpenStore(dir string, l Limits) (*Store, error) {
	s := &Store{dir: dir, pins: map[digest.Digest]int{}, added: map[digest.Digest]bool{}}
	for _, d := range []string{s.blobDir(), s.tmpDir()} {
		if err := durable.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	// What was being imported when the last daemon ended is of no use.
	if err := removeContents(s.tmpDir()); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.Layout = Layout{root, l.withDefaults()}
	if err := s.examineIndex(); err != nil {
		return nil, errors.Join(fmt.Errorf("image store: %w", err), root.Close())
	}
	layout := filepath.Join(dir, ocispec.ImageLayoutFile)
	if _, err := os.Stat(layout); err == nil {
		return s, nil
	}
	return s, writeFile(s.tmpDir(), layout, []byte(layoutText))
}

// examineIndex sets an index aside that cannot be read.
func (s *Store) examineIndex() error {
	_, err := readOwnIndex(s.root)
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return err
	}
	s.Aside, err = aside.Move(filepath.Join(s.dir, ocispec.ImageIndexFile), err)
	return err
}

// layoutText is the content of a layout's oci-layout file.
const layoutText = `{"imageLayoutVersion":"1.0.0"}`

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		_ = remove.Tree(filepath.Join(dir, e.Name())) // nothing needs its name; the next opening tries again
	}
	return err
}

func (s *Store) tmpDir() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) blobDir() string { return filepath.Join(s.dir, "blobs", "sha256") }

func (s *Store) blobPath(d digest.Digest) string { return filepath.Join(s.blobDir(), d.Encoded()) }

func (s *Store) readIndex() (ocispec.Index, error) {
	idx, err := readOwnIndex(s.root)
	if err != nil {
		return idx, fmt.Errorf("image store: %s: %w", ocispec.ImageIndexFile, err)
	}
	return idx, nil
}

// readOwnIndex reads the index of a layout that is this host's; none is an empty one.
func readOwnIndex(root *os.Root) (ocispec.Index, error) {
	b, err := readSmall(root, ocispec.ImageIndexFile, document.MaxLayoutBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}, nil
	}
	if err != nil {
		return ocispec.Index{}, err
	}
	return document.ReadLayoutIndex(b)
}

func (s *Store) writeIndex(idx ocispec.Index) error {
	b, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	if len(b) > document.MaxLayoutBytes {
		return fmt.Errorf("image store: with it the list of images would be larger than %d bytes: remove some, and run `freejail gc`", document.MaxLayoutBytes)
	}
	// The blobs' names must be on the disk before the index that needs them.
	if err := durable.Sync(s.blobDir()); err != nil {
		return err
	}
	return writeFile(s.tmpDir(), filepath.Join(s.dir, ocispec.ImageIndexFile), b)
}

// writeFile replaces a file in one step.
func writeFile(tmpDir, final string, b []byte) error {
	f, err := os.CreateTemp(tmpDir, "file-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), final)
	}
	if err != nil {
		return errors.Join(full(err), os.Remove(f.Name()))
	}
	return durable.Sync(filepath.Dir(final))
}

// Get finds an image by its name (with or without :latest), or by sha256: and its
// digest or the first digits of it, at least 12. Neither is taken for the other.
// The error is ErrNotFound, or tells that several digests begin so.
func (s *Store) Get(ref string) (*Image, error) {
	d, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return s.load(d)
}

func sameName(a, b string) bool { return imagename.Same(a, b) }

// minDigest is how much of a digest has to be given: an image whose digest has
// fewer digits in common with another's is soon made.
const minDigest = 12

func (s *Store) find(ref string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	idx, err := s.readIndex()
	s.mu.Unlock()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	hex, byDigest := strings.CutPrefix(ref, "sha256:")
	if !byDigest {
		for _, d := range idx.Manifests {
			if ref != "" && sameName(d.Annotations[refName], ref) {
				return d, nil
			}
		}
		return ocispec.Descriptor{}, notFound(ref)
	}
	var found *ocispec.Descriptor
	for i, d := range idx.Manifests {
		if len(hex) < minDigest || !strings.HasPrefix(d.Digest.Encoded(), hex) {
			continue
		}
		if found != nil && found.Digest != d.Digest {
			err = fmt.Errorf("%q is the beginning of several digests", ref)
		}
		if found == nil || private(*found) { // one name for everybody is enough
			found = &idx.Manifests[i]
		}
	}
	if found == nil {
		return s.nameless(ref)
	}
	return *found, err
}

// Names are those that an image has in the store, the newest first.
func (s *Store) Names(d digest.Digest) (out []string, err error) {
	s.mu.Lock()
	idx, err := s.readIndex()
	s.mu.Unlock()
	for _, m := range idx.Manifests {
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
		if b, err := readSmall(s.root, blobName(digest.Digest(ref)), document.MaxBytes); err == nil {
			return ocispec.Descriptor{Digest: digest.Digest(ref), Size: int64(len(b))}, nil
		}
	}
	return ocispec.Descriptor{}, notFound(ref)
}

var onlyHex = regexp.MustCompile(`^[0-9a-f]{6,64}$`)

// DigestHint says how a digest is written where a name looks like one that is
// written otherwise; it is empty for other names.
func DigestHint(name string) string {
	if !onlyHex.MatchString(name) {
		return ""
	}
	return fmt.Sprintf(" (this is a name; a digest is written sha256:%s)", name)
}

func notFound(ref string) error { return fmt.Errorf("%w: %q%s", ErrNotFound, ref, DigestHint(ref)) }

// Hold keeps an image and its blobs from Prune and GC until release is called.
// It is ErrNotFound where the image is gone already.
func (s *Store) Hold(img *Image) (release func(), err error) {
	d := ocispec.Descriptor{Digest: img.Digest}
	s.pin([]ocispec.Descriptor{d}) // from now on a GC spares it
	release = sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unpinLocked([]ocispec.Descriptor{d})
	})
	for _, b := range append([]ocispec.Descriptor{d}, img.Layers...) {
		if _, err := os.Stat(s.blobPath(b.Digest)); err != nil {
			release()
			return nil, fmt.Errorf("%w: %s: %w", ErrNotFound, img.Digest, err)
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
	return fmt.Sprintf("image %q cannot be read: %v: remove it by `freejail images rm %s`, and pull or import it again", e.Name, e.Err, e.Name)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

func (s *Store) unreadable(d ocispec.Descriptor, err error) error {
	return &UnreadableError{d.Annotations[refName], d.Digest, err}
}

// All goes through all images by name. One that cannot be read is an
// *UnreadableError in its place; any other error is the last. Images are read one by one, as all together can be large.
func (s *Store) All() iter.Seq2[*Image, error] {
	return func(yield func(*Image, error) bool) {
		s.mu.Lock()
		idx, err := s.readIndex()
		s.mu.Unlock()
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
	gone, err := s.find(ref)
	if err != nil {
		return err
	}
	byName := !strings.HasPrefix(ref, "sha256:")
	s.mu.Lock()
	defer s.mu.Unlock()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
		return d.Digest == gone.Digest && (!byName || d.Annotations[refName] == gone.Annotations[refName])
	})
	return s.writeIndex(idx)
}

// setName makes a name mean an image, and no other any more.
func (s *Store) setName(d ocispec.Descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	kept := []ocispec.Descriptor{d}
	for _, m := range idx.Manifests {
		if !sameName(m.Annotations[refName], d.Annotations[refName]) {
			kept = append(kept, m)
		}
	}
	idx.Manifests = kept
	return s.writeIndex(idx)
}
