package image

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
)

// Temp makes a file that Keep can make a blob. The name must be no other's and
// have no slash in it; empty means any.
func (l *Directory) Temp(name string) (*os.File, error) {
	if name == "" {
		name = rand.Text()
	}
	return l.root.OpenFile(path.Join(layoutTemp, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
}

// Reopen opens a file that Temp has made, to append to it. An earlier process
// may have made it.
func (l *Directory) Reopen(name string) (*os.File, error) {
	return l.root.OpenFile(path.Join(layoutTemp, name), os.O_RDWR|os.O_APPEND, 0)
}

// Temps lists the files that Temp has made and that are still there.
func (l *Directory) Temps() ([]fs.FileInfo, error) { return l.list(layoutTemp) }

// Blobs lists the blobs by their file names, which are digests without sha256:.
func (l *Directory) Blobs() ([]fs.FileInfo, error) { return l.list(layoutBlobs) }

func (l *Directory) list(dir string) ([]fs.FileInfo, error) {
	f, err := l.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdir(-1)
}

// Discard removes a file that Temp has made.
func (l *Directory) Discard(name string) error { return l.root.Remove(path.Join(layoutTemp, name)) }

// Touch notes that a blob was asked for.
func (l *Directory) Touch(d digest.Digest) error {
	name, err := blobFile(d)
	if err != nil {
		return err
	}
	return l.root.Chtimes(name, time.Time{}, time.Now())
}
