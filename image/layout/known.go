package layout

import (
	"io/fs"
	"os"
	"reflect"
	"sync"
	"time"

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
	size   int64 // of them, in bytes of memory
	uses   uint64
}

// What is kept of images: far more than a host's tasks are started from at a time, in few MiB. Sizes are in bytes of
// memory, which can be many times those of the documents. An image that is larger than others ever are is read each
// time, and so does not take the places of the others.
const (
	maxKnown      = 64
	maxKnownSize  = 4 << 20
	maxKnownImage = 256 << 10
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
	size             int64 // bytes of memory
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
	k := &described{manifest: manifest, configName: blobName(m.Config.Digest),
		size: fileInfoSize + clip(reflect.ValueOf(img).Elem())}
	k.image = *img
	if k.config, err = s.root.Lstat(k.configName); err == nil && k.size <= maxKnownImage {
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
	n.size += k.size
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
		n.size -= k.size
		delete(n.images, key)
	}
}

// fileInfoSize is more than two fs.FileInfo and their names take, in bytes.
const fileInfoSize = 1 << 10

var timeType = reflect.TypeFor[time.Time]()

// clip leaves no slice any room: what one has appended to is its own from then on, and nothing is held that is not
// used. It tells what v takes in memory, in bytes, rather too much than too little.
func clip(v reflect.Value) int64 { return int64(v.Type().Size()) + clipWithin(v) }

// clipWithin is clip without what v itself takes.
func clipWithin(v reflect.Value) (size int64) {
	switch v.Kind() {
	case reflect.String:
		return (int64(v.Len()) + 15) &^ 15 // as the allocator does
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			size = 16 + clip(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == timeType {
			return 256 // of a time zone of its own
		}
		for i := range v.NumField() {
			size += clipWithin(v.Field(i))
		}
	case reflect.Slice:
		if v.CanSet() && v.Cap() > v.Len() {
			less := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(less, v)
			v.Set(less)
		}
		size = int64(v.Cap()) * int64(v.Type().Elem().Size())
		size += size / 8 // as the allocator does
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return size
		}
		for i := range v.Len() {
			size += clipWithin(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() {
			return 0
		}
		entry := 1 + int64(v.Type().Key().Size()) + max(8, int64(v.Type().Elem().Size()))
		size = 64 + entry*int64(8+5*v.Len()/2) // a table is half full at worst, and the allocator gives more
		for each := v.MapRange(); each.Next(); {
			size += clipWithin(each.Key()) + clipWithin(each.Value())
		}
	}
	return size
}
