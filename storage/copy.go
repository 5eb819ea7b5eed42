package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// copyTree copies an opened directory with owners, modes, times, hard links and
// file flags. It goes by descriptors: a server may exchange what it has.
func copyTree(ctx context.Context, from *os.File, to string) error {
	c := &copier{ctx: ctx}
	return c.tree(from, to)
}

type copier struct {
	ctx     context.Context
	links   map[uint64]string // of files with several names: the first copy
	later   []copied
	shallow bool            // directories are only made, and listed
	dirs    []string        // when shallow
	without map[string]bool // names of the top, when shallow
	check   func(*unix.Stat_t) error
}

// copied is what was copied, with what it is to be like.
type copied struct {
	path string
	st   unix.Stat_t
}

func (c *copier) tree(from *os.File, to string) error {
	c.links = map[uint64]string{}
	if err := c.dir(from, to); err != nil {
		return err
	}
	// Directories change as long as something is made in them, and flags may
	// forbid any change.
	slices.Reverse(c.later)
	for _, e := range c.later {
		if err := e.finish(); err != nil {
			return err
		}
	}
	if c.shallow {
		return nil
	}
	for _, e := range c.later {
		if err := setFlags(e.path, &e.st); err != nil {
			return fmt.Errorf("%s: file flags: %w", e.path, err)
		}
	}
	return nil
}

// dir copies an opened directory, of which from may be no more than the place.
func (c *copier) dir(from *os.File, to string) error {
	d, err := openAt(from, ".", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	e := copied{path: to}
	if err := unix.Fstat(int(d.Fd()), &e.st); err != nil {
		return &fs.PathError{Op: "stat", Path: to, Err: err}
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	c.later = append(c.later, e)
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.without[name] {
			continue
		}
		if err := errors.Join(c.ctx.Err(), c.entry(d, name, filepath.Join(to, name))); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(dir *os.File, name, to string) error {
	e := copied{path: to}
	if err := unix.Fstatat(int(dir.Fd()), name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: to, Err: err}
	}
	if c.check != nil {
		if err := c.check(&e.st); err != nil {
			return err
		}
	}
	kind := e.st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return c.subdir(dir, name, to)
	}
	if e.st.Nlink > 1 {
		if first, ok := c.links[e.st.Ino]; ok {
			return os.Link(first, to)
		}
		c.links[e.st.Ino] = to
	}
	c.later = append(c.later, e)
	switch kind {
	case unix.S_IFREG:
		return copyFile(dir, name, to)
	case unix.S_IFLNK:
		says, err := readLink(dir, name)
		if err != nil {
			return err
		}
		return os.Symlink(says, to)
	case unix.S_IFIFO:
		return unix.Mkfifo(to, 0o600)
	}
	return fmt.Errorf("%s: not a regular file or directory", to)
}

func readLink(dir *os.File, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, b)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return string(b[:n]), nil
}

func (c *copier) subdir(dir *os.File, name, to string) error {
	if c.shallow {
		c.dirs = append(c.dirs, name)
		return os.Mkdir(to, 0o755)
	}
	sub, err := openAt(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(c.dir(sub, to), sub.Close())
}

func copyFile(dir *os.File, name, to string) error {
	r, err := openAt(dir, name, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer r.Close()
	fi, err := r.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s changed while it was being copied", to)
	}
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, r, fi.Size())
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s became shorter while it was being copied", to)
	}
	return errors.Join(err, w.Close())
}

// openAt opens a name in a directory, and no link.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openDir opens a directory whose path is nobody else's to change.
func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// finish sets the owner, then the mode, which a change of owner cuts down.
func (e *copied) finish() error {
	err := os.Lchown(e.path, int(e.st.Uid), int(e.st.Gid))
	if err == nil && e.st.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(e.path, uint32(e.st.Mode)&0o7777)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, e.path, []unix.Timespec{e.st.Atim, e.st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	return nil
}
