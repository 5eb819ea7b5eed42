package unpack

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
	defer func() { err = errors.Join(err, root.Close()) }()
	t, err := newTree(root, b)
	if err != nil {
		return err
	}
	a := &applier{tree: t, layer: layer, out: newWriters()}
	err = a.entries(tar.NewReader(r))
	if err = errors.Join(err, a.out.wait()); err == nil {
		err = t.finish()
	}
	return errors.Join(err, t.close())
}

// applier turns an archive's entries into changes of a tree.
type applier struct {
	tree  *tree
	layer bool
	out   *writers
}

func (a *applier) entries(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) || a.out.failed() {
			return nil // wait tells of the failure
		}
		if err != nil {
			return err
		}
		if err = a.tree.budget.addEntry(); err == nil {
			err = a.entry(h, tr)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
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
		return fmt.Errorf("invalid owner %d:%d", h.Uid, h.Gid)
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
	a.tree.mark(f.join(base))
	return a.make(h, f, base, r)
}

func (a *applier) whiteout(dir, base string) error {
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if base != opaqueMarker &&
		(hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, whiteoutPrefix)) {
		return errors.New("not a valid whiteout")
	}
	f, err := a.tree.open(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is nothing to hide
	}
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		return a.tree.hideContents(f)
	}
	return a.tree.hide(f, hidden)
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
	return fmt.Errorf("unknown entry type %q", h.Typeflag)
}

func (a *applier) rootDirectory(h *tar.Header) error {
	f, err := a.tree.open("", true) // its flags must not be in the way
	if err == nil {
		err = a.tree.chown(f, ".", h)
	}
	if err != nil {
		return err
	}
	return a.tree.setDir(".", h)
}

func (a *applier) directory(h *tar.Header, f *folder, base string) error {
	err := unix.Mkdirat(f.fd, base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = a.existingDirectory(f, base)
	}
	if err == nil {
		err = a.tree.chown(f, base, h)
	}
	if err != nil {
		return err
	}
	return a.tree.setDir(f.join(base), h)
}

// existingDirectory makes use of one, or makes one of what is there.
func (a *applier) existingDirectory(f *folder, base string) error {
	var st unix.Stat_t
	if err := statAt(f.fd, base, &st); err != nil {
		return err
	}
	if !isType(&st, unix.S_IFDIR) {
		if err := a.tree.clear(f, base); err != nil {
			return err
		}
		return unix.Mkdirat(f.fd, base, 0o700)
	}
	if _, err := thaw(f, base, &st); err != nil || a.tree.asRoot {
		return err
	}
	fd, err := openDirAt(f.fd, base)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fchmod(fd, 0o700), unix.Close(fd)) // its own mode comes when all is in it
}

func (a *applier) file(h *tar.Header, f *folder, base string, r io.Reader) error {
	if err := a.tree.budget.addFile(h.Size); err != nil {
		return err
	}
	times, err := timesOf(h)
	if err != nil {
		return err
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	fd, err := openAt(f.fd, base, flags)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			fd, err = openAt(f.fd, base, flags)
		}
	}
	if err != nil {
		return err
	}
	w := &outFile{fd: fd, name: h.Name, mode: a.tree.mode(h), chown: a.tree.asRoot, uid: h.Uid, gid: h.Gid,
		times: times}
	if err := a.out.write(w, r, h.Size); err != nil {
		return err
	}
	return a.tree.setFlags(f.join(base), h)
}

func (a *applier) symlink(h *tar.Header, f *folder, base string) error {
	times, err := timesOf(h)
	if err != nil {
		return err
	}
	err = unix.Symlinkat(h.Linkname, f.fd, base)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			err = unix.Symlinkat(h.Linkname, f.fd, base)
		}
	}
	if err == nil {
		err = a.tree.chown(f, base, h)
	}
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(f.fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// hardLink links to a file of the tree; a symbolic link in the target's own
// last place is linked itself, never followed.
func (a *applier) hardLink(h *tar.Header, f *folder, base string) error {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	from, target, st, err := a.tree.links.lookup(to)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	if !isType(&st, unix.S_IFREG) && !isType(&st, unix.S_IFLNK) {
		return fmt.Errorf("hard link to %q: not a file", h.Linkname)
	}
	if from.path == f.path && target == base {
		return errors.New("the hard link points to itself")
	}
	err = a.tree.link(from, target, &st, f, base)
	if errors.Is(err, fs.ErrExist) {
		// This may remove the directory that the target is in.
		if err = a.tree.clear(f, base); err != nil {
			return err
		}
		if from, target, st, err = a.tree.links.lookup(to); err == nil {
			err = a.tree.link(from, target, &st, f, base)
		}
	}
	return err
}
