package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts of the OCI image specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// maxName is the longest path that a system call would take.
const maxName = 4096

// applyTar applies one uncompressed archive to a directory; as a layer it may
// have whiteouts.
func applyTar(r io.Reader, dir string, b *budget, layer bool) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	a := &applier{tree: newTree(root, b), layer: layer, buf: make([]byte, 1<<18)}
	defer func() { err = errors.Join(err, a.tree.close()) }()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a.tree.finish()
		}
		if err != nil {
			return err
		}
		if err = b.addEntry(); err == nil {
			err = a.entry(h, tr)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// applier turns an archive's entries into changes of a tree.
type applier struct {
	tree  *tree
	layer bool
	buf   []byte
}

// cleanName is an entry's path from the root, without the slash; empty is the
// root itself.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("the name is longer than %d bytes", maxName)
	}
	if strings.Contains(name, "\x00") || strings.Contains("/"+name+"/", "/../") {
		return "", errors.New("the name leads out of the root")
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // comments of git and the like
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return fmt.Errorf("the owner %d:%d is no valid one", h.Uid, h.Gid)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root itself can only be a directory")
		}
		return a.rootDirectory(h)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if a.layer && strings.Contains("/"+dir, "/"+whiteoutPrefix) {
		return errors.New("a whiteout cannot be a directory")
	}
	if a.layer && strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(dir, base)
	}
	f, err := a.tree.open(dir, true)
	if err != nil {
		return err
	}
	a.tree.mark(path.Join(f.path, base))
	return a.make(h, f, base, r)
}

func (a *applier) whiteout(dir, base string) error {
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if base != opaqueMarker && (hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, whiteoutPrefix)) {
		return errors.New("it is no whiteout of a name")
	}
	f, err := a.tree.open(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is nothing to hide
	}
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		return a.tree.hideContents(f.root, f.path)
	}
	return a.tree.hide(f.root, f.path, hidden)
}

func (a *applier) make(h *tar.Header, f *folder, base string, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(h, f, base)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return a.file(h, f, base, r)
	case tar.TypeSymlink:
		return a.symlink(h, f, base)
	case tar.TypeLink:
		return a.hardLink(h, f, base)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return errors.New("device nodes and FIFOs are not allowed in a layer: devices come from devfs")
	}
	return fmt.Errorf("the entry type %q is not known", h.Typeflag)
}

func (a *applier) rootDirectory(h *tar.Header) error {
	if _, err := a.tree.open("", true); err != nil { // its flags must not be in the way
		return err
	}
	if err := a.tree.chown(a.tree.root, ".", h); err != nil {
		return err
	}
	a.tree.setDir(".", h, a.tree.mode(h))
	return nil
}

func (a *applier) directory(h *tar.Header, f *folder, base string) error {
	err := f.root.Mkdir(base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var fi fs.FileInfo
		if fi, err = f.root.Lstat(base); err != nil {
			return err
		}
		if fi.IsDir() {
			_, err = a.tree.thaw(f.root, base, fi)
		} else if err = a.tree.clear(f, base); err == nil {
			err = f.root.Mkdir(base, 0o700)
		}
	}
	if err != nil {
		return err
	}
	if err := a.tree.chown(f.root, base, h); err != nil {
		return err
	}
	a.tree.setDir(path.Join(f.path, base), h, a.tree.mode(h))
	if a.tree.asRoot {
		return nil
	}
	return f.root.Chmod(base, 0o700) // its own mode comes when all is in it
}

func (a *applier) file(h *tar.Header, f *folder, base string, r io.Reader) error {
	if err := a.tree.budget.addFile(h.Size); err != nil {
		return err
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	w, err := f.root.OpenFile(base, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			w, err = f.root.OpenFile(base, flags, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, a.buf)
	if err == nil && a.tree.asRoot {
		err = w.Chown(h.Uid, h.Gid)
	}
	if err == nil { // after the owner: changing that takes setuid bits away
		err = w.Chmod(a.tree.mode(h))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	a.tree.setFlags(path.Join(f.path, base), h)
	return setTimes(f, base, h)
}

func (a *applier) symlink(h *tar.Header, f *folder, base string) error {
	err := f.root.Symlink(h.Linkname, base)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			err = f.root.Symlink(h.Linkname, base)
		}
	}
	if err == nil {
		err = a.tree.chown(f.root, base, h)
	}
	if err != nil {
		return err
	}
	return setTimes(f, base, h)
}

// setTimes works on the entry itself, be it a link. The name has no slash and
// is not "..", so it cannot leave the open directory.
func setTimes(f *folder, base string, h *tar.Header) error {
	var ts [2]unix.Timespec
	for i, t := range []time.Time{accessTime(h), h.ModTime} {
		var err error
		if ts[i], err = unix.TimeToTimespec(t); err != nil {
			return fmt.Errorf("the time %s: %w", t, err)
		}
	}
	return unix.UtimesNanoAt(int(f.dir.Fd()), base, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

func accessTime(h *tar.Header) time.Time {
	if h.AccessTime.IsZero() {
		return h.ModTime
	}
	return h.AccessTime
}

// hardLink links to a file of the tree; a symbolic link in the target's own
// last place is linked itself, never followed.
func (a *applier) hardLink(h *tar.Header, f *folder, base string) error {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	target, fi, err := a.tree.lookup(to)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	if !fi.Mode().IsRegular() && fi.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("hard link to %q: that is no file", h.Linkname)
	}
	name := path.Join(f.path, base)
	if target == name {
		return errors.New("the hard link points to itself")
	}
	err = a.tree.link(target, name, fi)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			err = a.tree.link(target, name, fi)
		}
	}
	return err
}
