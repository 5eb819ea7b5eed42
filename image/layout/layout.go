// Package layout keeps images as OCI layout directories do: blobs by their digests
// and an index that names images. Store is one that collects what it needs no
// more; an archive is one in a tar.
package layout

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/regular"
)

// Names in a layout. Beside those of the specification there is a directory for
// what is being written; a layout may have others too.
const (
	indexFile = ocispec.ImageIndexFile
	blobDir   = "blobs/sha256"
	tempDir   = "tmp"
)

// versionText is the content of a layout's oci-layout file.
const versionText = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`

// refName is the annotation that OCI layouts give a manifest's name with.
const refName = ocispec.AnnotationRefName

// Layout is an OCI layout directory. Blobs and the index are written whole or not
// at all; several goroutines, but only one process, may write at once. Nothing is
// opened outside of the directory, whatever lies in it.
type Layout struct {
	root    *os.Root
	name    string // as the caller named it, for messages
	dir     string // where it lies; empty where only its descriptor is known
	limits  image.Limits
	mode    fs.FileMode // of files that are made
	own     bool        // made of an archive, and removed with Close
	several bool        // of its images are imported: what one is given stays for the others
	made    bool        // of what is neither a layout nor an oci-archive
	temp    bool        // the directory for what is being written is ours too
	mu      sync.Mutex  // guards the index
	updates atomic.Uint64
}

// open opens a directory, whatever is in it.
func open(dir string, l image.Limits) (*Layout, error) {
	root, err := regular.Root(dir)
	if err != nil {
		return nil, err
	}
	return &Layout{root: root, name: dir, dir: dir, limits: l.WithDefaults(), mode: 0o644}, nil
}

// Open opens a layout that is there. A store's directory is one too.
func Open(dir string) (*Layout, error) {
	l, err := open(dir, image.Limits{})
	if err != nil {
		return nil, err
	}
	if _, err := regular.ReadIn(l.root, indexFile, document.MaxLayoutBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not an OCI layout: %w", dir, err), l.Close())
	}
	return l, nil
}

// Make opens a layout and makes it where it is missing. A directory with something
// else in it is refused.
func Make(dir string) (*Layout, error) {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := open(dir, image.Limits{})
	if err != nil {
		return nil, err
	}
	if err = l.checkContents(); err == nil {
		err = l.prepare(0o755)
	}
	if err == nil {
		if _, err = l.root.Stat(indexFile); errors.Is(err, fs.ErrNotExist) {
			err = l.Update(func(*ocispec.Index) error { return nil })
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// checkContents refuses a directory of something else.
func (l *Layout) checkContents() error {
	entries, err := l.list(".")
	ours := func(fi fs.FileInfo) bool {
		return slices.Contains([]string{indexFile, ocispec.ImageLayoutFile, "blobs", tempDir}, fi.Name())
	}
	if err == nil && len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		err = fmt.Errorf("%s is not an OCI layout, and not empty: choose another directory", l.dir)
	}
	return err
}

// prepare makes what a layout has but for the index.
func (l *Layout) prepare(dirMode fs.FileMode) error {
	if err := durable.MkdirAllIn(l.root, blobDir, dirMode); err != nil {
		return err
	}
	err := l.root.Mkdir(tempDir, 0o700)
	if l.temp = err == nil; err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err = l.root.Stat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		err = l.writeFile(ocispec.ImageLayoutFile, []byte(versionText))
	}
	return err
}

// Close lets go of the layout.
func (l *Layout) Close() error {
	if l.temp {
		_ = l.root.Remove(tempDir) // stays where something is being written
	}
	err := l.root.Close()
	if l.own {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}

// Converted tells that it was made of a docker-archive or a dir.
func (l *Layout) Converted() bool { return l.made }

// Dir is where the layout lies.
func (l *Layout) Dir() string { return l.dir }

// Limits bound what its images may unpack to.
func (l *Layout) Limits() image.Limits { return l.limits }

// Index reads the list of what a layout of this host has; none is an empty one.
func (l *Layout) Index() (ocispec.Index, error) {
	b, err := regular.ReadIn(l.root, indexFile, document.MaxLayoutBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return newIndex(), nil
	}
	var idx ocispec.Index
	if err == nil {
		idx, err = document.ReadLayoutIndex(b)
	}
	if err != nil {
		return idx, fmt.Errorf("%s: %s: %w", l.name, indexFile, err)
	}
	return idx, nil
}

func newIndex(list ...ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: list}
}

// errUnchanged of an Update's change leaves the index, and is no error.
var errUnchanged = errors.New("unchanged")

// Update changes the index in one step. An error of change leaves it.
func (l *Layout) Update(change func(*ocispec.Index) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	idx, err := l.Index()
	if err != nil {
		return err
	}
	if err := change(&idx); errors.Is(err, errUnchanged) {
		return nil
	} else if err != nil {
		return err
	}
	if idx.Manifests == nil {
		idx.Manifests = []ocispec.Descriptor{} // null is no list to others
	}
	b, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	if len(b) > document.MaxLayoutBytes {
		return fmt.Errorf("%s: the list of images would be larger than %d bytes: remove some",
			l.name, document.MaxLayoutBytes)
	}
	if err := l.Sync(); err != nil {
		return err
	}
	err = l.writeFile(indexFile, b)
	l.updates.Add(1)
	return err
}

// Sync has the names of blobs written to the disk, as Update does before the
// index that needs them.
func (l *Layout) Sync() error { return durable.SyncIn(l.root, blobDir) }

// writeFile replaces a file in one step.
func (l *Layout) writeFile(name string, b []byte) error {
	f, err := l.Temp("")
	if err != nil {
		return blob.ExplainNoSpace(err)
	}
	_, err = f.Write(b)
	if err := l.commit(f, name, err); err != nil {
		return err
	}
	return durable.SyncIn(l.root, path.Dir(name))
}

// Tag puts an image or artifact into the index, under a name that is then no
// other's; without a name it is only kept.
func (l *Layout) Tag(d ocispec.Descriptor, name string) error {
	return l.Update(func(idx *ocispec.Index) error {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(m ocispec.Descriptor) bool {
			own := m.Annotations[refName]
			return name != "" && own == name || own == "" && m.Digest == d.Digest
		})
		known := func(m ocispec.Descriptor) bool { return m.Digest == d.Digest }
		if name == "" && slices.ContainsFunc(idx.Manifests, known) {
			return nil
		}
		d.Annotations = nil
		if name != "" {
			d.Annotations = map[string]string{refName: name}
		}
		idx.Manifests = append(idx.Manifests, d)
		return nil
	})
}

// Find takes the entry of a name or a digest, or without one the only there is.
// Of several for different platforms it takes the one that fits wanted best;
// nil takes none of several. What is attached to images, such as signatures, is
// found by its name alone. A name that several have is an error unless their
// platforms tell them apart.
func (l *Layout) Find(name string, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	other := image.IsArtifact
	if name != "" {
		other = func(d ocispec.Descriptor) bool {
			return !imagename.Same(image.OwnName(d), name) && !imagename.Same(d.Annotations[refName], name) &&
				d.Digest.String() != name
		}
	}
	list := slices.DeleteFunc(slices.Clone(idx.Manifests), other)
	if len(list) == 0 {
		var have []string
		for _, d := range idx.Manifests {
			have = append(have, cmp.Or(image.OwnName(d), d.Digest.String()))
		}
		return ocispec.Descriptor{}, fmt.Errorf("%w in %s: %q; there are: %s",
			image.ErrNotFound, l.name, name, strings.Join(have, ", "))
	}
	if slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return !image.IsArtifact(d) }) {
		list = slices.DeleteFunc(list, image.IsArtifact)
	}
	if wanted != nil && !image.IsArtifact(list[0]) {
		return image.Choose(list, wanted, name)
	}
	return image.Only(list, name)
}

// manifestOf reads an image's manifest.
func (l *Layout) manifestOf(d ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	b, err := l.ReadBlob(d)
	if err == nil {
		m, err = document.ReadManifest(b, d.MediaType)
	}
	if err != nil {
		return m, fmt.Errorf("image manifest %s: %w", d.Digest, err)
	}
	return m, nil
}

// load reads an image's manifest and config.
func (l *Layout) load(d ocispec.Descriptor) (*image.Image, error) {
	img, _, err := image.Read(l.ReadBlob, d)
	if err != nil {
		return nil, err
	}
	return asNamed(img, d), nil
}

// asNamed is an image as an entry of the index names it.
func asNamed(img *image.Image, d ocispec.Descriptor) *image.Image {
	img.Name, img.Pulled, img.Private = d.Annotations[refName], d.Annotations[pulledMark] != "", private(d)
	return img
}
