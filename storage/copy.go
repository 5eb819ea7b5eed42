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

// copyTree copies a directory of a chain, which nobody changes, with owners,
// modes, times, hard links and file flags.
func copyTree(ctx context.Context, from, to string) error {
	c := &copier{from: from, to: to, links: map[uint64]string{}}
	err := filepath.WalkDir(from, func(p string, _ fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		return c.copy(p)
	})
	if err != nil {
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
	for _, e := range c.later {
		if err := setFlags(e.path, &e.st); err != nil {
			return fmt.Errorf("%s: file flags: %w", e.path, err)
		}
	}
	return nil
}

type copier struct {
	from, to string
	links    map[uint64]string // of files with several names: the first copy
	later    []copied
}

// copied is what was copied, with what it is to be like.
type copied struct {
	path string
	st   unix.Stat_t
}

func (c *copier) copy(from string) error {
	rel, err := filepath.Rel(c.from, from)
	if err != nil {
		return err
	}
	e := copied{path: filepath.Join(c.to, rel)}
	if err := unix.Lstat(from, &e.st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	kind := e.st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && e.st.Nlink > 1 {
		if first, ok := c.links[e.st.Ino]; ok {
			return os.Link(first, e.path)
		}
		c.links[e.st.Ino] = e.path
	}
	switch kind {
	case unix.S_IFDIR:
		err = os.Mkdir(e.path, 0o700)
	case unix.S_IFREG:
		err = copyFile(from, e.path)
	case unix.S_IFLNK:
		var to string
		if to, err = os.Readlink(from); err == nil {
			err = os.Symlink(to, e.path)
		}
	default:
		err = fmt.Errorf("%s is neither a file nor a directory", from)
	}
	c.later = append(c.later, e)
	return err
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
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
