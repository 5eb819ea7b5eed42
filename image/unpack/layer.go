package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

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
		err = errors.Join(a.end(), t.finish())
	}
	return errors.Join(err, t.close())
}

// applier turns an archive's entries into changes of a tree.
type applier struct {
	tree  *tree
	layer bool
	aufs  bool // the layer has a directory AufsLinks
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

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	e, err := ReadEntry(h, a.layer)
	if err != nil {
		return err
	}
	switch e.Kind {
	case Root:
		return a.rootDirectory(h)
	case Whiteout, Opaque:
		return a.whiteout(e)
	case Makes:
		a.aufs = a.aufs || a.layer && strings.HasPrefix(e.Name, AufsLinks)
		f, err := a.tree.open(e.Dir, true)
		if err != nil {
			return err
		}
		a.tree.mark(f.join(e.Base))
		return a.make(h, e, f, r)
	}
	return nil
}

func (a *applier) whiteout(e Entry) error {
	f, err := a.tree.open(e.Dir, false)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
		return nil // there is nothing to hide
	}
	if err != nil {
		return err
	}
	if e.Kind == Opaque {
		return a.tree.hideContents(f)
	}
	return a.tree.hide(f, e.Base)
}

func (a *applier) make(h *tar.Header, e Entry, f *folder, r io.Reader) error {
	base := e.Base
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(h, f, base)
	case tar.TypeSymlink:
		return a.symlink(h, f, base)
	case tar.TypeLink:
		return a.hardLink(e.Link, f, base)
	case tar.TypeFifo:
		return a.fifo(h, f, base)
	}
	return a.file(h, f, base, r)
}

// end removes what a layer of aufs has linked its files to.
func (a *applier) end() error {
	if !a.aufs {
		return nil
	}
	f, err := a.tree.open("", false)
	if err != nil {
		return err
	}
	return a.tree.clear(f, AufsLinks)
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

func (a *applier) fifo(h *tar.Header, f *folder, base string) error {
	times, err := timesOf(h)
	if err != nil {
		return err
	}
	err = unix.Mknodat(f.fd, base, unix.S_IFIFO|0o600, 0)
	if errors.Is(err, fs.ErrExist) {
		if err = a.tree.clear(f, base); err == nil {
			err = unix.Mknodat(f.fd, base, unix.S_IFIFO|0o600, 0)
		}
	}
	if err != nil {
		return err
	}
	fd, err := openAt(f.fd, base, unix.O_RDONLY|unix.O_NONBLOCK) // which waits for no writer
	if err != nil {
		return err
	}
	w := &outFile{fd: fd, mode: a.tree.mode(h), chown: a.tree.asRoot, uid: h.Uid, gid: h.Gid, times: times}
	return errors.Join(w.finish(), unix.Close(fd))
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
func (a *applier) hardLink(to string, f *folder, base string) error {
	from, target, st, err := a.tree.links.lookup(to)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", to, err)
	}
	if !isType(&st, unix.S_IFREG) && !isType(&st, unix.S_IFLNK) && !isType(&st, unix.S_IFIFO) {
		return fmt.Errorf("hard link to %q: not a file", to)
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
