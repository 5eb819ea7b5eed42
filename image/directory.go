package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// Directory is an OCI layout directory for reading and writing. Blobs and the index are written whole or
// not at all; several goroutines, but only one process, may write at once.
// Nothing is opened outside of the directory, whatever lies in it.
type Directory struct {
	root *os.Root
	dir  string
	own  bool       // made for an archive, and removed with it
	temp bool       // the directory for what is being written is ours too
	mu   sync.Mutex // guards the index
}

const layoutBlobs = "blobs/sha256"

// layoutTemp has what is being written. A layout may have other directories
// than its own.
const layoutTemp = "tmp"

// OpenDirectory opens a layout that is there. A store's directory is one too.
func OpenDirectory(dir string) (*Directory, error) {
	root, err := regular.Root(dir)
	if err != nil {
		return nil, err
	}
	l := &Directory{root: root, dir: dir}
	if _, err := readSmall(root, ocispec.ImageIndexFile, document.MaxLayoutBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is no OCI layout: %w", dir, err), root.Close())
	}
	return l, nil
}

// MakeDirectory opens a layout and makes it where it is missing. A directory with
// something else in it is refused.
func MakeDirectory(dir string) (*Directory, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	ours := func(e os.DirEntry) bool {
		return slices.Contains([]string{ocispec.ImageIndexFile, ocispec.ImageLayoutFile, "blobs", layoutTemp}, e.Name())
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		return nil, fmt.Errorf("%s is no OCI layout, and not empty: choose another directory", dir)
	}
	root, err := regular.Root(dir)
	if err != nil {
		return nil, err
	}
	l := &Directory{root: root, dir: dir}
	if err := l.prepare(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return l, nil
}

func (l *Directory) prepare() error {
	if err := l.root.MkdirAll(layoutBlobs, 0o755); err != nil {
		return err
	}
	if err := l.root.Mkdir(layoutTemp, 0o700); err == nil {
		l.temp = true
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	if _, err := l.root.Stat(ocispec.ImageLayoutFile); err != nil {
		if err := l.write(ocispec.ImageLayoutFile, []byte(layoutText)); err != nil {
			return err
		}
	}
	if _, err := l.root.Stat(ocispec.ImageIndexFile); err == nil {
		return nil
	}
	return l.Update(func(*ocispec.Index) error { return nil })
}

// OpenArchive unpacks an oci-archive (tar, also in gzip, zstd or xz) into a
// temporary layout, which Close removes. Every blob is verified.
func OpenArchive(ctx context.Context, file string, limits Limits) (*Directory, error) {
	dir, err := os.MkdirTemp("", "freejail-archive-")
	if err != nil {
		return nil, err
	}
	var l *Directory
	if err = extractFile(ctx, file, dir, limits.withDefaults(), true); err == nil {
		l, err = OpenDirectory(dir)
	}
	if err != nil {
		return nil, errors.Join(full(err), os.RemoveAll(dir))
	}
	l.own = true
	return l, nil
}

// Close lets go of the layout.
func (l *Directory) Close() error {
	if l.temp {
		_ = l.root.Remove(layoutTemp) // stays where something is being written
	}
	err := l.root.Close()
	if l.own {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}

// Dir is where the layout lies.
func (l *Directory) Dir() string { return l.dir }

// Index reads the list of what the layout has.
func (l *Directory) Index() (ocispec.Index, error) {
	idx, err := readOwnIndex(l.root)
	if err != nil {
		return idx, fmt.Errorf("%s: %s: %w", l.dir, ocispec.ImageIndexFile, err)
	}
	return idx, nil
}

// Update changes the index in one step. An error of change leaves it.
func (l *Directory) Update(change func(*ocispec.Index) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	idx, err := l.Index()
	if err != nil {
		return err
	}
	if err := change(&idx); err != nil {
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
		return fmt.Errorf("%s: the index would be larger than %d bytes", l.dir, document.MaxLayoutBytes)
	}
	return l.write(ocispec.ImageIndexFile, b)
}

// Tag puts an image or artifact into the index, under a name that is then no
// other's; without a name it is only kept.
func (l *Directory) Tag(d ocispec.Descriptor, name string) error {
	return l.Update(func(idx *ocispec.Index) error {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(m ocispec.Descriptor) bool {
			own := m.Annotations[refName]
			return name != "" && own == name || own == "" && m.Digest == d.Digest
		})
		if name == "" && slices.ContainsFunc(idx.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d.Digest }) {
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
func (l *Directory) Find(name string, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	other := func(d ocispec.Descriptor) bool { return isArtifact(d) }
	if name != "" {
		other = func(d ocispec.Descriptor) bool {
			return !sameName(ownName(d), name) && !sameName(d.Annotations[refName], name) && d.Digest.String() != name
		}
	}
	list := slices.DeleteFunc(slices.Clone(idx.Manifests), other)
	if len(list) == 0 {
		var have []string
		for _, d := range idx.Manifests {
			have = append(have, cmp.Or(ownName(d), d.Digest.String()))
		}
		return ocispec.Descriptor{}, fmt.Errorf("%w in %s: %q; there are: %s", ErrNotFound, l.dir, name, strings.Join(have, ", "))
	}
	if slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return !isArtifact(d) }) {
		list = slices.DeleteFunc(list, isArtifact)
	}
	if wanted != nil && !isArtifact(list[0]) {
		return choose(list, wanted, name)
	}
	if list, err = named(list, name); err != nil {
		return ocispec.Descriptor{}, err
	}
	d, _, err := only(list, name)
	if err == nil && slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest != d.Digest }) {
		err = fmt.Errorf("the name %q is that of images for several platforms: give the digest of one", ownName(d))
	}
	return d, err
}

func blobFile(d digest.Digest) (string, error) {
	if err := checkDigest(d); err != nil {
		return "", err
	}
	return path.Join(layoutBlobs, d.Encoded()), nil
}

// Open opens a blob and tells its size. The content is not verified.
func (l *Directory) Open(d digest.Digest) (*os.File, int64, error) {
	name, err := blobFile(d)
	if err != nil {
		return nil, 0, err
	}
	return openRegular(l.root, name)
}

// Stat tells a blob's size; the error is fs.ErrNotExist where there is none.
func (l *Directory) Stat(d digest.Digest) (int64, error) {
	name, err := blobFile(d)
	if err != nil {
		return 0, err
	}
	fi, err := l.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("%s/%s is not a regular file", l.dir, name)
	}
	return fi.Size(), nil
}

// Read gives a whole manifest or config, verified.
func (l *Directory) Read(d ocispec.Descriptor) ([]byte, error) {
	f, size, err := l.Open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > document.MaxBytes {
		return nil, fmt.Errorf("blob %s: %d bytes are over the limit of %d", d.Digest, size, document.MaxBytes)
	}
	d.Size = size
	return io.ReadAll(newVerifier(f, d))
}

// Verified passes on what r gives and ends with an error unless it was what the
// descriptor says.
func Verified(r io.Reader, d ocispec.Descriptor) io.Reader { return newVerifier(r, d) }

// Keep closes a file of Temp and makes it the blob of a digest, which the caller
// has verified; after an error it removes the file instead.
func (l *Directory) Keep(f *os.File, d digest.Digest, err error) error {
	temp := path.Join(layoutTemp, path.Base(f.Name()))
	name, derr := blobFile(d)
	if err = errors.Join(err, derr); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = l.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(full(err), l.root.Remove(temp))
	}
	return l.sync(layoutBlobs)
}

// Put stores what r gives if it is what the descriptor says.
func (l *Directory) Put(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	f, err := l.Temp("")
	if err != nil {
		return full(err)
	}
	_, err = copyAll(f, newVerifier(ctxReader{ctx, r}, d))
	return l.Keep(f, d.Digest, err)
}

// Link takes a blob from another layout on the same file system, without
// copying it.
func (l *Directory) Link(from *Directory, d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	if _, err := from.Stat(d); err != nil {
		return err
	}
	err = os.Link(path.Join(from.dir, name), path.Join(l.dir, name))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.sync(layoutBlobs)
}

// Delete removes a blob.
func (l *Directory) Delete(d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	return l.root.Remove(name)
}

// write replaces a file in one step.
func (l *Directory) write(name string, b []byte) error {
	f, err := l.Temp("")
	if err != nil {
		return full(err)
	}
	temp := path.Join(layoutTemp, path.Base(f.Name()))
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = l.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(full(err), l.root.Remove(temp))
	}
	return l.sync(".")
}

func (l *Directory) sync(dir string) error {
	f, err := l.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
