package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Unpack applies an image's layers in order to an empty directory. Nothing
// outside of it is touched, whatever the layers say; every layer's DiffID is
// verified; device nodes and FIFOs are refused.
func (s *Store) Unpack(ctx context.Context, img *Image, dir string, progress func(stage string)) error {
	left := s.limits.ImageBytes
	entries := s.limits.Entries
	for i, l := range img.Layers {
		if progress != nil {
			progress(fmt.Sprintf("layer %d of %d", i+1, len(img.Layers)))
		}
		f, err := os.Open(s.blobPath(l.Digest))
		if err != nil {
			return err
		}
		open, err := decompressorFor(l.MediaType)
		if err == nil {
			limit := layerLimit{bytes: min(left, s.limits.LayerBytes), entries: entries}
			err = applyCompressed(ctx, f, open, dir, img.Config.RootFS.DiffIDs[i], &limit)
			left -= limit.used
			entries -= limit.seen
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("layer %d (%.19s): %w", i+1, l.Digest, err)
		}
	}
	return nil
}

type layerLimit struct {
	bytes, entries int64
	used, seen     int64
}

func applyCompressed(ctx context.Context, r io.Reader, open func(io.Reader) (io.ReadCloser, error), dir string, want digest.Digest, limit *layerLimit) error {
	z, err := open(r)
	if err != nil {
		return err
	}
	defer z.Close()
	h := sha256.New()
	counted := &countingReader{r: ctxReader{ctx, z}, limit: limit}
	tee := io.TeeReader(counted, h)
	if err := ApplyLayer(tee, dir, limit.entries, &limit.seen); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // padding after the end counts
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != want {
		return fmt.Errorf("its content has the digest %s, the config says %s", got, want)
	}
	return nil
}

// countingReader ends a decompression that goes over the limit.
type countingReader struct {
	r     io.Reader
	limit *layerLimit
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.limit.used += int64(n); c.limit.used > c.limit.bytes {
		return 0, fmt.Errorf("it unpacks to more than the limit of %d bytes (limits { layer_size, image_size })", c.limit.bytes)
	}
	return n, err
}

// Whiteouts of the OCI image specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// ApplyLayer applies one uncompressed layer to a directory. seen counts
// entries, of which there may be maxEntries.
func ApplyLayer(r io.Reader, dir string, maxEntries int64, seen *int64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	a := &applier{root: root, made: map[string]bool{}, buf: make([]byte, 1<<18)}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a.finish()
		}
		if err != nil {
			return err
		}
		if *seen++; *seen > maxEntries {
			return fmt.Errorf("it has more than the limit of %d entries (limits { entries })", maxEntries)
		}
		if err := a.entry(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// applier works through an os.Root, so that a link in the tree cannot lead an
// entry out of it.
type applier struct {
	root *os.Root
	made map[string]bool // made by this layer: an opaque marker spares them
	dirs []*tar.Header   // times are set when nothing is written any more
	buf  []byte
}

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if strings.Contains(h.Name, "\x00") || strings.Contains("/"+h.Name+"/", "/../") {
		return errors.New("the name leads out of the root")
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root itself can only be a directory")
		}
		return a.directory(h, ".")
	}
	parent, err := a.parent(dir)
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		return a.opaque(parent)
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, ".wh.") {
			return errors.New("it is no whiteout of a name")
		}
		return removeAll(a.root, path.Join(parent, hidden))
	}
	name = path.Join(parent, base)
	for p := name; p != "." && !a.made[p]; p = path.Dir(p) {
		a.made[p] = true
	}
	return a.make(h, name, r)
}

func (a *applier) make(h *tar.Header, name string, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(h, name)
	case tar.TypeReg:
		return a.file(h, name, r)
	case tar.TypeSymlink:
		if err := a.clear(name); err != nil {
			return err
		}
		if err := a.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return a.root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		return a.hardLink(h, name)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return errors.New("device nodes and FIFOs are not allowed in a layer: devices come from devfs")
	}
	return fmt.Errorf("the entry type %q is not known", h.Typeflag)
}

// parent resolves links in the directory part within the root: an absolute
// link means the image's own root. It makes what is missing.
func (a *applier) parent(dir string) (string, error) {
	done, links := ".", 0
	todo := strings.Split(dir, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			done = path.Dir(done) // of "." is "."
			continue
		}
		next := path.Join(done, name)
		fi, err := a.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := a.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case fi.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", errors.New("too many symbolic links")
			}
			to, err := a.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(to) {
				done = "."
			}
			todo = append(strings.Split(to, "/"), todo...)
			continue
		case !fi.IsDir():
			return "", fmt.Errorf("/%s is not a directory", next)
		}
		done = next
	}
	return done, nil
}

// opaque hides what lower layers have in a directory.
func (a *applier) opaque(dir string) error {
	f, err := a.root.Open(dir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	for _, n := range names {
		if p := path.Join(dir, n); !a.made[p] {
			err = errors.Join(err, removeAll(a.root, p))
		}
	}
	return err
}

// clear makes way for an entry.
func (a *applier) clear(name string) error {
	err := a.root.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeAll(a.root, name)
}

func (a *applier) directory(h *tar.Header, name string) error {
	fi, err := a.root.Lstat(name)
	if err != nil || !fi.IsDir() {
		if err := a.clear(name); err != nil {
			return err
		}
		if err := a.root.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	if err := a.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	kept := *h
	kept.Name = name
	a.dirs = append(a.dirs, &kept)
	return a.root.Chmod(name, mode(h)|0o700) // its own mode comes last
}

func mode(h *tar.Header) fs.FileMode {
	m := fs.FileMode(h.Mode & 0o777)
	for bit, f := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			m |= f
		}
	}
	return m
}

func (a *applier) file(h *tar.Header, name string, r io.Reader) error {
	if err := a.clear(name); err != nil {
		return err
	}
	f, err := a.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, a.buf)
	// The owner first: changing it takes setuid bits away.
	err = errors.Join(err, f.Chown(h.Uid, h.Gid), f.Chmod(mode(h)))
	if err == nil {
		err = setFlags(f, h)
	}
	return errors.Join(err, f.Close(), a.root.Chtimes(name, accessTime(h), h.ModTime))
}

func accessTime(h *tar.Header) time.Time {
	if h.AccessTime.IsZero() {
		return h.ModTime
	}
	return h.AccessTime
}

// hardLink links to a file of the tree; a link in the target's own last place
// is linked itself, never followed.
func (a *applier) hardLink(h *tar.Header, name string) error {
	if strings.Contains("/"+h.Linkname+"/", "/../") {
		return errors.New("the hard link leads out of the root")
	}
	dir, base := path.Split(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"))
	parent, err := a.parent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	target := path.Join(parent, base)
	if target == name {
		return errors.New("the hard link points to itself")
	}
	fi, err := a.root.Lstat(target)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() && fi.Mode()&fs.ModeSymlink == 0 {
		return errors.New("the hard link points to something that is no file")
	}
	if err := a.clear(name); err != nil {
		return err
	}
	return a.root.Link(target, name)
}

// finish gives directories their modes and times, the deepest first.
func (a *applier) finish() error {
	for _, h := range slices.Backward(a.dirs) {
		fi, err := a.root.Lstat(h.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
			continue // a later entry replaced it
		}
		if err := errors.Join(err, a.root.Chmod(h.Name, mode(h)), a.root.Chtimes(h.Name, accessTime(h), h.ModTime)); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	return nil
}
