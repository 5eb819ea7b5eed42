// Package remove deletes trees that somebody else made: however deep they are,
// whatever their files forbid, and without going by a path.
package remove

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDepth is how many directories are open at once. What lies deeper is moved
// up to the top of the tree and removed there.
const maxDepth = 64

// ErrMounted means that a file system is mounted in the tree: nothing of it is
// removed.
var ErrMounted = errors.New("a file system is mounted there")

// Tree removes what is at a path, of which all but the last name is trusted. No
// file there is no error. What cannot be removed does not keep the rest; the
// error is the first.
func Tree(path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(At(parent, filepath.Base(path)), parent.Close())
}

// Move renames a directory of which all but the last name is trusted, though flags
// of its own forbid it: those are cleared.
func Move(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := openDir(unix.AT_FDCWD, from)
	if err != nil {
		return err
	}
	if err := errors.Join(thawDir(fd), unix.Close(fd)); err != nil {
		return pathError("chflags", from, err)
	}
	return os.Rename(from, to)
}

// At is like Tree for a name in an opened directory, the flags of which it
// leaves alone.
func At(parent *os.File, name string) error {
	t := &tree{parent: int(parent.Fd()), top: -1, names: make([]byte, 32<<10)}
	return t.entry(t.parent, name, 0, false)
}

// tree is one removal.
type tree struct {
	parent, top int
	dev         uint64 // of top
	lifted      int    // how many directories were moved to top
	names       []byte // of one read
}

// entry removes a file or a directory, which it may be known to be.
func (t *tree) entry(dir int, name string, depth int, isDir bool) error {
	if isDir && depth <= maxDepth {
		if there, err := t.dir(dir, name, depth); there {
			return err
		}
	}
	err := unlink(dir, name, 0)
	if errors.Is(err, unix.ENOENT) {
		if dir == t.parent {
			return nil
		}
		return removeWhiteout(dir, name)
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if depth > maxDepth {
		return t.deep(dir, name)
	}
	_, err = t.dir(dir, name, depth)
	return err
}

// dir removes a directory, and tells whether anything was there to be opened.
func (t *tree) dir(parent int, name string, depth int) (there bool, err error) {
	fd, err := openDir(parent, name)
	if notDir(err) {
		return true, t.thawed(parent, name, func() error { return unlink(parent, name, 0) })
	}
	if err != nil {
		return !errors.Is(err, unix.ENOENT), err
	}
	err = t.opened(fd, parent, name, depth)
	return true, errors.Join(err, unix.Close(fd))
}

func (t *tree) opened(fd, parent int, name string, depth int) error {
	if err := t.sameDevice(fd, name, depth); err != nil {
		return err
	}
	for {
		lifted := t.lifted
		n, err := t.contents(fd, depth+1)
		gone := unlink(parent, name, unix.AT_REMOVEDIR)
		if errors.Is(gone, unix.EPERM) {
			gone = t.thawed(parent, name, func() error { return unlink(parent, name, unix.AT_REMOVEDIR) })
		}
		if gone == nil || errors.Is(gone, unix.ENOENT) {
			return nil
		}
		if n == 0 && t.lifted == lifted {
			return first(err, gone)
		}
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return pathError("lseek", name, err)
		}
	}
}

// sameDevice makes the first directory the top of the tree, and refuses those
// that are of another file system than what the tree is in.
func (t *tree) sameDevice(fd int, name string, depth int) error {
	var st unix.Stat_t
	if depth == 0 {
		if err := unix.Fstat(t.parent, &st); err != nil {
			return pathError("fstat", name, err)
		}
		t.top, t.dev = fd, uint64(st.Dev)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("fstat", name, err)
	}
	if uint64(st.Dev) != t.dev {
		return pathError("remove", name, ErrMounted)
	}
	return nil
}

// Where struct dirent has its length and the type of the file, in sys/dirent.h of FreeBSD and dirent.h of Linux.
const (
	direntLength = 16
	direntType   = 18
)

// contents goes through a directory once and tells how many entries went. Those
// that the removal of others had it pass over need another time.
func (t *tree) contents(dir, depth int) (n int, err error) {
	for {
		size, failed := readDirent(dir, t.names)
		if failed != nil {
			return n, first(err, os.NewSyscallError("readdir", failed))
		}
		if size == 0 {
			return n, err
		}
		for _, e := range entries(t.names[:size]) {
			if failed := t.entry(dir, e.name, depth, e.isDir); failed != nil {
				err = first(err, failed)
				continue
			}
			n++
		}
	}
}

// dirent is an entry of a directory that may be known to be one itself.
type dirent struct {
	name  string
	isDir bool
}

// entries are copies of those in a read, but for "." and "..".
func entries(b []byte) (out []dirent) {
	for len(b) > direntType {
		one := b[:min(len(b), max(direntType+1, int(binary.NativeEndian.Uint16(b[direntLength:]))))]
		b = b[len(one):]
		_, _, names := unix.ParseDirent(one, 1, nil)
		for _, name := range names {
			out = append(out, dirent{name, one[direntType] == unix.DT_DIR})
		}
	}
	return out
}

// deep removes a file, or moves a directory to the top of the tree, where it is
// found later.
func (t *tree) deep(dir int, name string) error {
	fd, err := openDir(dir, name)
	if notDir(err) {
		return t.thawed(dir, name, func() error { return unlink(dir, name, 0) })
	}
	if err != nil {
		return err
	}
	err = errors.Join(t.sameDevice(fd, name, 1), unix.Close(fd))
	if err != nil {
		return err
	}
	err = t.lift(dir, name)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := thawDir(t.top); err != nil {
		return pathError("chflags", name, err)
	}
	return t.thawed(dir, name, func() error { return t.lift(dir, name) })
}

// lift may take the place of an empty directory, but of nothing else.
func (t *tree) lift(dir int, name string) error {
	for {
		t.lifted++
		err := unix.Renameat(dir, name, t.top, fmt.Sprintf("deep-%d", t.lifted))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return pathError("renameat", name, err)
		}
	}
}

// thawed does what file flags forbade. That of a directory and of the entries in
// it are cleared for good, but the parent's of the tree.
func (t *tree) thawed(dir int, name string, do func() error) error {
	if dir != t.parent {
		if err := thawDir(dir); err != nil {
			return pathError("chflags", name, err)
		}
	}
	return thawed(dir, name, do)
}

func openDir(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, pathError("openat", name, err)
		}
	}
}

func notDir(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK)
}

func unlink(dir int, name string, flags int) error {
	for {
		err := unix.Unlinkat(dir, name, flags)
		if !errors.Is(err, unix.EINTR) {
			return pathError("unlinkat", name, err)
		}
	}
}

// getdents is a variable for tests.
var getdents = unix.ReadDirent

func readDirent(dir int, buf []byte) (int, error) {
	for {
		n, err := getdents(dir, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// first keeps one error of the many that a large tree can have.
func first(err, later error) error {
	if err != nil {
		return err
	}
	return later
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
