package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// What other archives have instead of an index.json: a list of images where docker
// and podman save them, and one image's manifest in skopeo's dir:.
const (
	manifestFile = "manifest.json"
	repositories = "repositories"
)

// extraction is how an archive, or a directory of another form, becomes a layout.
type extraction struct {
	parent string // directory for the layout; empty is the system's for temporary files
	limits image.Limits
	verify bool // blobs, whose names are digests
	tell   func(image.Progress)
}

// extract makes a layout in a directory of what belongs to an image, and of nothing
// else: at the top of the archive, or in the one folder at its top that has it. It tells
// whether that had another form.
func (x extraction) extract(ctx context.Context, from members, dir string) (converted bool, err error) {
	e := &extractor{extraction: x, from: from, dir: dir}
	if err = e.sort(ctx); errors.Is(err, errTop) { // what came before lay in a folder
		if err = os.RemoveAll(filepath.Join(dir, "blobs")); err == nil {
			err = errors.Join(e.removeDocuments(), e.sort(ctx))
		}
	}
	if err != nil {
		return false, err
	}
	if _, err := os.Lstat(filepath.Join(dir, indexFile)); err == nil {
		return false, e.agrees(ctx)
	}
	switch text := bytes.TrimSpace(e.manifest); {
	case bytes.HasPrefix(text, []byte("[")):
		err = e.saved(ctx)
	case text != nil:
		err = e.flat(ctx)
	case e.old:
		err = errors.New("an archive of a docker older than 1.10 is not supported: save the image again")
	}
	return true, err
}

// extractor is one extraction.
type extractor struct {
	extraction
	from     members
	dir      string
	left     int64 // bytes that may still be written
	folder   string
	placed   bool // the folder is known
	manifest []byte
	old      bool              // there is a file repositories
	links    map[string]string // by name
	linkText int               // bytes of them
	followed map[string]bool   // links that were used
}

// errTop tells that the image lies at the top, and not in the folder seen first.
var errTop = errors.New("the image lies at the top of the archive")

// sort takes what an OCI layout has, and remembers what else may be of use.
func (e *extractor) sort(ctx context.Context) error {
	e.left, e.links, e.linkText, e.manifest, e.old = e.limits.ImageBytes, map[string]string{}, 0, nil, false
	if err := os.MkdirAll(filepath.Join(e.dir, blobDir), 0o700); err != nil {
		return err
	}
	return e.from.each(ctx, func(m member) error {
		if m.link != "" {
			return e.keepLink(m)
		}
		folder, name := placeOf(m.name)
		if name == "" {
			return nil
		}
		if mine, err := e.enter(folder); err != nil || !mine {
			return err
		}
		switch {
		case name == repositories:
			e.old = true
			return nil
		case name != manifestFile:
			return e.write(name, m)
		case e.manifest != nil:
			return errDuplicate
		}
		var err error
		e.manifest, err = regular.Read(m.r, name, document.MaxBytes)
		return err
	})
}

func (e *extractor) removeDocuments() (err error) {
	for _, name := range []string{indexFile, ocispec.ImageLayoutFile} {
		if rerr := os.Remove(filepath.Join(e.dir, name)); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// placeOf tells in which folder at the top a file of an image lies, empty for the top
// itself, and its name there; that is empty for other files.
func placeOf(member string) (folder, name string) {
	known := func(name string) bool { return layoutFile(name) || name == manifestFile || name == repositories }
	if known(member) {
		return "", member
	}
	if folder, name, ok := strings.Cut(member, "/"); ok && known(name) {
		return folder, name
	}
	return "", ""
}

// enter tells whether a folder is the one that has the image. What lies at the top
// goes before what is in a folder.
func (e *extractor) enter(folder string) (bool, error) {
	switch {
	case !e.placed:
		e.folder, e.placed = folder, true
	case folder == e.folder:
	case folder == "":
		e.folder = ""
		return false, errTop
	case e.folder != "":
		return false, fmt.Errorf("the folder %.100q of the archive has an image too", e.folder)
	default:
		return false, nil
	}
	return true, nil
}

// maxLinkText bounds what is remembered of an archive's links, in bytes.
const maxLinkText = 8 << 20

// severalLinks are of one name, which is an error where it is used.
const severalLinks = "/"

func (e *extractor) keepLink(m member) error {
	if e.linkText += len(m.name) + len(m.link); e.linkText > maxLinkText {
		return fmt.Errorf("the archive's links are larger than %d bytes", maxLinkText)
	}
	if old, twice := e.links[m.name]; twice && old != m.link {
		m.link = severalLinks
	}
	e.links[m.name] = m.link
	return nil
}

// layoutFile knows the names that an OCI layout can have; none leaves it.
func layoutFile(name string) bool {
	return name == ocispec.ImageIndexFile || name == ocispec.ImageLayoutFile || blobDigest(name) != ""
}

var errDuplicate = errors.New("duplicate entry")

// write takes a file of a layout.
func (e *extractor) write(name string, m member) error {
	if err := e.charge(m); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(e.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errDuplicate
	}
	if err != nil {
		return err
	}
	r := m.r
	if d := blobDigest(name); d != "" && e.verify {
		r = blob.Verify(r, ocispec.Descriptor{Digest: d, Size: m.size})
	}
	_, err = blob.Copy(f, r)
	return errors.Join(err, f.Close())
}

// charge counts what is written: a sparse file unpacks to more than the archive has of it.
func (e *extractor) charge(m member) error {
	if e.left -= m.size; m.size < 0 || e.left < 0 {
		return fmt.Errorf("over the limit of %d bytes (limits { image_size })", e.limits.ImageBytes)
	}
	return nil
}

// finish writes the index, as the last of all.
func (e *extractor) finish(list []ocispec.Descriptor) error {
	idx, err := json.Marshal(newIndex(list...))
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{indexFile: idx, ocispec.ImageLayoutFile: []byte(versionText)} {
		f, err := os.OpenFile(filepath.Join(e.dir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, bytes.NewReader(text))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
