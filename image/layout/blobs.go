package layout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/regular"
)

// blobFile is where a blob lies.
func blobFile(d digest.Digest) (string, error) {
	if err := document.CheckDigest(d); err != nil {
		return "", err
	}
	return blobName(d), nil
}

// blobName is blobFile for a digest that was checked.
func blobName(d digest.Digest) string { return blobDir + "/" + d.Encoded() }

// blobDigest is empty where a name is not that of a blob.
func blobDigest(name string) digest.Digest {
	hex, ok := strings.CutPrefix(name, blobDir+"/")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if !ok || d.Validate() != nil {
		return ""
	}
	return d
}

// OpenBlob opens a blob, whose content is not verified. It waits for nothing,
// whatever lies there.
func (l *Layout) OpenBlob(d digest.Digest) (*os.File, error) {
	f, _, err := l.openBlob(d)
	return f, err
}

func (l *Layout) openBlob(d digest.Digest) (*os.File, int64, error) {
	name, err := blobFile(d)
	if err != nil {
		return nil, 0, err
	}
	f, fi, err := regular.OpenIn(l.root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("blob %s is missing: %w", d, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, fi.Size(), nil
}

// openSized opens a blob that has as many bytes as its descriptor says.
func (l *Layout) openSized(d ocispec.Descriptor) (*os.File, error) {
	f, size, err := l.openBlob(d.Digest)
	if err == nil && size != d.Size {
		err = errors.Join(fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, size, d.Size), f.Close())
	}
	return f, err
}

// Open makes a layout an Origin.
func (l *Layout) Open(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	f, err := l.openSized(d)
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, offset, nil
}

// StatBlob tells a blob's size; the error is fs.ErrNotExist where there is none.
func (l *Layout) StatBlob(d digest.Digest) (int64, error) {
	name, err := blobFile(d)
	if err != nil {
		return 0, err
	}
	fi, err := l.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	if !fi.Mode().IsRegular() {
		return 0, fmt.Errorf("%s/%s: not a regular file", l.name, name)
	}
	return fi.Size(), nil
}

// has tells whether a blob is there, as far as its size tells.
func (l *Layout) has(d ocispec.Descriptor) bool {
	size, err := l.StatBlob(d.Digest)
	return err == nil && size == d.Size
}

// lacks tells that a blob is not there, and nothing else in its place.
func (l *Layout) lacks(d ocispec.Descriptor) bool {
	_, err := l.StatBlob(d.Digest)
	return errors.Is(err, fs.ErrNotExist)
}

// missingForeign is the error of a layer that its makers do not give to others.
func missingForeign(d ocispec.Descriptor) error {
	return fmt.Errorf("blob %s is missing: a layer of the type %q is often not copied with its image",
		d.Digest, d.MediaType)
}

// ReadBlob gives a whole manifest or config. Its digest is verified; the
// descriptor's size is not compared.
func (l *Layout) ReadBlob(d ocispec.Descriptor) ([]byte, error) {
	name, err := blobFile(d.Digest)
	if err != nil {
		return nil, err
	}
	b, err := regular.ReadIn(l.root, name, document.MaxBytes)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, blob.Mismatch(d.Digest, got)
	}
	return b, nil
}

// PutBlob stores what r gives if it is what the descriptor says.
func (l *Layout) PutBlob(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if err := document.CheckDigest(d.Digest); err != nil {
		return err
	}
	f, err := l.Temp("")
	if err != nil {
		return blob.ExplainNoSpace(err)
	}
	_, err = blob.Copy(f, blob.Verify(blob.WithContext(ctx, r), d))
	return l.Keep(f, d.Digest, err)
}

// Keep closes a file of Temp and makes it the blob of a digest, which the caller
// has verified; after an error it removes the file instead. The blob outlives a
// power cut after Sync or Update.
func (l *Layout) Keep(f *os.File, d digest.Digest, err error) error {
	name, derr := blobFile(d)
	return l.commit(f, name, errors.Join(err, derr))
}

// commit gives a file of Temp its name.
func (l *Layout) commit(f *os.File, name string, err error) error {
	return blob.ExplainNoSpace(durable.Commit(l.root, f, path.Join(tempDir, path.Base(f.Name())), name, err))
}

// LinkBlob takes a blob from another layout on the same file system, without
// copying it.
func (l *Layout) LinkBlob(from *Layout, d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	if _, err := from.StatBlob(d); err != nil {
		return err
	}
	if err := os.Link(path.Join(from.dir, name), path.Join(l.dir, name)); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return l.Sync()
}

// DeleteBlob removes a blob.
func (l *Layout) DeleteBlob(d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	return l.root.Remove(name)
}

// TouchBlob notes that a blob was asked for.
func (l *Layout) TouchBlob(d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	return l.root.Chtimes(name, time.Time{}, time.Now())
}

// Blobs lists the blobs by their file names, which are digests without sha256:.
func (l *Layout) Blobs() ([]fs.FileInfo, error) { return l.list(blobDir) }

// Temp makes a file that Keep can make a blob. The name must be no other's and
// have no slash in it; empty means any.
func (l *Layout) Temp(name string) (*os.File, error) {
	if name == "" {
		name = rand.Text()
	}
	return l.root.OpenFile(path.Join(tempDir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, l.mode)
}

// Reopen opens a file that Temp has made, to append to it. An earlier process
// may have made it.
func (l *Layout) Reopen(name string) (*os.File, error) {
	return l.root.OpenFile(path.Join(tempDir, name), os.O_RDWR|os.O_APPEND, 0)
}

// Temps lists the files that Temp has made and that are still there.
func (l *Layout) Temps() ([]fs.FileInfo, error) { return l.list(tempDir) }

// Discard removes a file that Temp has made.
func (l *Layout) Discard(name string) error { return l.root.Remove(path.Join(tempDir, name)) }

func (l *Layout) list(dir string) ([]fs.FileInfo, error) {
	f, err := l.root.Open(dir)
	if err != nil {
		return nil, err
	}
	list, err := f.Readdir(-1)
	return list, errors.Join(err, f.Close())
}
