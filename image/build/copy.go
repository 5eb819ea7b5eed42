package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// copyStep is COPY and ADD. Files come from the context and are root's, with
// the mode 0644, or 0755 where the owner may execute them: neither the umask
// nor the owner of a checkout reaches the image.
//
// The destination is found in the image as a process in it would find it: links
// to directories are followed, inside the image. A file takes the place of a
// link in the last place of its path, and is not written through it.
type copyStep struct {
	sources []string
	dest    string // absolute; a final slash says that it is a directory
	chown   string
	mode    *int64
	unpack  bool // ADD: an archive is unpacked
	strict  bool // what is no archive is an error
}

func (s *copyStep) run(ctx context.Context, b *builder) error {
	uid, gid, err := b.owner(s.chown)
	if err != nil {
		return fmt.Errorf("--chown=%s: %w", s.chown, err)
	}
	return b.layer(ctx, func(w *writer) error {
		c := &copier{ctx: ctx, step: s, b: b, w: w, uid: uid, gid: gid, items: map[string]item{}}
		return c.run()
	})
}

// item is one entry to be written, at a path of the image without links.
type item struct {
	node *node
	from string // of a file: its path in the context
}

type copier struct {
	ctx      context.Context
	step     *copyStep
	b        *builder
	w        *writer
	uid, gid int
	items    map[string]item
}

func (c *copier) run() error {
	sources, err := c.b.expand(c.step.sources)
	if err != nil {
		return err
	}
	if len(sources) > 1 && !strings.HasSuffix(c.step.dest, "/") {
		return fmt.Errorf("there are %d sources: the destination must be a directory: write %s/", len(sources), c.step.dest)
	}
	for _, src := range sources {
		if err := c.source(src); err != nil {
			return err
		}
	}
	return c.flush()
}

// flush writes what was collected, parents before what is in them.
func (c *copier) flush() error {
	for _, at := range slices.Sorted(maps.Keys(c.items)) {
		if err := c.write(at, c.items[at]); err != nil {
			return err
		}
	}
	clear(c.items)
	return nil
}

func (c *copier) source(src string) error {
	fi, err := c.b.context.Stat(src)
	if err != nil {
		return contextError(src, err)
	}
	if fi.IsDir() {
		at, err := c.dir(c.step.dest)
		if err != nil {
			return err
		}
		return c.contents(src, at)
	}
	if c.step.unpack {
		done, err := c.archive(src)
		if done || err != nil {
			return err
		}
		if c.step.strict {
			return fmt.Errorf("%s is no archive: want a tar, plain or in gzip, zstd or xz", src)
		}
	}
	dest := c.step.dest
	if !strings.HasSuffix(dest, "/") {
		_, n, missing, err := c.w.view.walk(dest, true)
		if err == nil && len(missing) == 0 && n.kind == tar.TypeDir {
			dest += "/"
		}
	}
	dir, base := path.Split(dest)
	if base == "" {
		base = path.Base(src)
	}
	at, err := c.dir(dir)
	if err != nil {
		return err
	}
	return c.file(src, path.Join(at, base), fi)
}

// dir is a directory that an instruction names; what is missing of it is made,
// as root's.
func (c *copier) dir(p string) (string, error) {
	return c.w.view.dir(p, func(at string, n *node) error {
		c.items[at] = item{node: n}
		return checkName(at)
	})
}

// contents copies what is in a directory of the context.
func (c *copier) contents(src, dest string) error {
	entries, err := fs.ReadDir(c.b.context.FS(), src)
	if err != nil {
		return contextError(src, err)
	}
	for _, e := range entries { // sorted by name
		name := path.Join(src, e.Name())
		skip, err := c.b.ignore.match(name)
		at := path.Join(dest, e.Name())
		switch {
		case err != nil:
		case !skip:
			err = c.child(name, at)
		case e.IsDir() && c.b.ignore.exceptions():
			err = c.contents(name, at) // not itself, but perhaps something in it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// child copies one entry of a directory. Its links are copied as links.
func (c *copier) child(src, dest string) error {
	fi, err := c.b.context.Lstat(src)
	if err != nil {
		return contextError(src, err)
	}
	parent, err := c.dir(path.Dir(dest))
	if err != nil {
		return err
	}
	dest = path.Join(parent, path.Base(dest))
	if !fi.IsDir() {
		return c.file(src, dest, fi)
	}
	if err := checkName(dest); err != nil {
		return err
	}
	at, n, missing, err := c.w.view.walk(dest, true)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		if c.w.view.get(dest) != nil {
			return fmt.Errorf("/%s is a link to nothing in the image and a directory in the context", dest)
		}
		n := &node{kind: tar.TypeDir, mode: c.modeOf(fi), uid: c.uid, gid: c.gid, names: map[string]*node{}}
		if err := c.put(dest, item{node: n}); err != nil {
			return err
		}
		at = dest
	case n.kind != tar.TypeDir:
		return fmt.Errorf("/%s is a file in the image and a directory in the context", dest)
	}
	return c.contents(src, at)
}

func (c *copier) put(at string, i item) error {
	c.items[at] = i
	return c.w.view.put(at, i.node)
}

// file places a file or a link at a path whose parent is no link.
func (c *copier) file(src, at string, fi fs.FileInfo) error {
	if err := checkName(at); err != nil {
		return err
	}
	if old := c.w.view.get(at); old != nil && old.kind == tar.TypeDir {
		return fmt.Errorf("/%s is a directory in the image and a file in the context: name it in the destination", at)
	}
	n := &node{kind: tar.TypeReg, mode: c.modeOf(fi), uid: c.uid, gid: c.gid}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := c.b.context.Readlink(src)
		if err != nil {
			return contextError(src, err)
		}
		n.kind, n.mode, n.link = tar.TypeSymlink, 0o777, to
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a directory nor a link: an image has no others", src)
	}
	return c.put(at, item{n, src})
}

// modeOf gives directories x where --chmod gives r.
func (c *copier) modeOf(fi fs.FileInfo) int64 {
	m := int64(0o644)
	if c.step.mode != nil {
		m = *c.step.mode
	}
	switch {
	case fi.IsDir():
		m |= m & 0o444 >> 2
	case c.step.mode == nil && fi.Mode()&0o100 != 0:
		m = 0o755
	}
	return m
}

func (c *copier) write(at string, i item) (err error) {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	n := i.node
	h := tar.Header{Name: at, Typeflag: n.kind, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: c.w.epoch, Linkname: n.link}
	if n.kind != tar.TypeReg {
		return c.w.entry(h, nil)
	}
	f, size, err := c.b.openFile(i.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h.Size = size
	if usersFile(at) && size <= maxText { // a later --chown looks here
		if n.text, err = io.ReadAll(io.LimitReader(f, size)); err != nil {
			return contextError(i.from, err)
		}
		return c.w.entry(h, bytes.NewReader(n.text))
	}
	return c.w.entry(h, f)
}

// openFile opens a file of the context for reading.
func (b *builder) openFile(name string) (*os.File, int64, error) {
	// A FIFO put there in the meantime must not make us wait.
	f, err := b.context.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, contextError(name, err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, 0, errors.Join(contextError(name, err), f.Close())
	}
	return f, fi.Size(), nil
}

func contextError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s in the context: %w", name, err)
}
