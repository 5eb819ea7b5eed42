package layout

import (
	"io/fs"
	"os"
	"reflect"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// known is what was read of a store last: a start of a task needs the index and the image several times. What is on the
// disk counts: a file that is another one since, or has changed, is read again.
type known struct {
	mu     sync.Mutex
	index  fs.FileInfo // nil where it is not known
	state  uint64      // of Layout.updates, then
	names  []ocispec.Descriptor
	images map[describedAs]*described
	size   int64 // of their documents, in bytes
	uses   uint64
}

// What is kept of images: far more than a host's tasks are started from at a time, in few MiB of memory.
const (
	maxKnown     = 64
	maxKnownSize = 4 << 20 // bytes of manifests and configs
)

type describedAs struct {
	digest    digest.Digest
	mediaType string
}

// described is an image without what the store knows of its name.
type described struct {
	image            image.Image
	manifest, config fs.FileInfo
	configName       string
	used             uint64
}

// entries are the manifests of the index. They are not to be changed.
func (s *Store) entries() ([]ocispec.Descriptor, error) {
	now, err := s.root.Lstat(indexFile)
	if err != nil {
		idx, err := s.Index() // which knows what that means
		return idx.Manifests, err
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	state := s.updates.Load()
	if s.known.state == state && unchanged(s.known.index, now) {
		return s.known.names, nil
	}
	idx, err := s.Index()
	if err != nil {
		return nil, err
	}
	s.known.index, s.known.state, s.known.names = now, state, idx.Manifests
	return idx.Manifests, nil
}

// unchanged tells of a file that was looked at before whether it is as it was then.
func unchanged(before, now fs.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.Size() == now.Size() &&
		before.ModTime().Equal(now.ModTime()) && now.Mode().IsRegular()
}

// describe is the image of a manifest. Its slices and maps are not to be changed: others have them, too.
func (s *Store) describe(d ocispec.Descriptor) (*image.Image, error) {
	if img := s.described(d); img != nil {
		return img, nil
	}
	name, err := blobFile(d.Digest)
	if err != nil {
		return nil, err
	}
	manifest, err := s.root.Lstat(name)
	if err != nil {
		manifest = nil // it is read all the same, for the error
	}
	img, m, err := image.Read(s.ReadBlob, d)
	if err != nil || manifest == nil {
		return img, err
	}
	clip(reflect.ValueOf(img).Elem())
	k := &described{image: *img, manifest: manifest, configName: blobName(m.Config.Digest)}
	if k.config, err = s.root.Lstat(k.configName); err == nil {
		s.known.keep(describedAs{d.Digest, d.MediaType}, k)
	}
	return img, nil
}

// described is nil where the image is to be read.
func (s *Store) described(d ocispec.Descriptor) *image.Image {
	key := describedAs{d.Digest, d.MediaType}
	s.known.mu.Lock()
	k := s.known.images[key]
	if k != nil {
		s.known.uses++
		k.used = s.known.uses
	}
	s.known.mu.Unlock()
	if k == nil {
		return nil
	}
	manifest, err := s.root.Lstat(blobName(d.Digest))
	if err != nil || !unchanged(k.manifest, manifest) {
		return nil
	}
	config, err := s.root.Lstat(k.configName)
	if err != nil || !unchanged(k.config, config) {
		return nil
	}
	img := k.image
	return &img
}

func (n *known) keep(key describedAs, k *described) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.images == nil {
		n.images = map[describedAs]*described{}
	}
	n.drop(key)
	n.uses++
	k.used = n.uses
	n.images[key] = k
	n.size += k.bytes()
	for len(n.images) > maxKnown || n.size > maxKnownSize {
		oldest := key
		for other, o := range n.images {
			if o.used < n.images[oldest].used {
				oldest = other
			}
		}
		n.drop(oldest)
	}
}

func (n *known) drop(key describedAs) {
	if k, ok := n.images[key]; ok {
		n.size -= k.bytes()
		delete(n.images, key)
	}
}

func (k *described) bytes() int64 { return k.manifest.Size() + k.config.Size() }

// clip leaves no slice any room: what one has appended to is its own from then on.
func clip(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			clip(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				clip(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.CanSet() {
			v.Set(v.Slice3(0, v.Len(), v.Len()))
		}
		for i := range v.Len() {
			clip(v.Index(i))
		}
	}
}
