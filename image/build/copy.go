package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
)

// copyStep is COPY and ADD. Files come from the context, and are root's with
// the mode 0644, or 0755 where the owner may execute them: neither the umask
// nor the owner of a checkout reaches the image. Or they come from another stage
// or image, and are as they are there.
//
// The destination is found in the image as a process in it would find it: links
// to directories are followed, inside the image. A file takes the place of a
// link in the last place of its path, and is not written through it.
type copyStep struct {
	sources []string
	from    *origin // nil: the context
	dest    string  // absolute; a final slash says that it is a directory
	chown   string
	mode    *int64
	whole   bool // a directory is copied itself, not only what is in it
	into    bool // into the destination, also where that is not there yet
	unpack  bool // ADD: an archive is unpacked
	strict  bool // what is no archive is an error
	parents bool // the directories of a source's path are copied with it
	texts   []text
	remotes []remote
	exclude []string // patterns of what is left out, relative to a source
}

// text is a file that the recipe itself holds.
type text struct{ Name, Text string }

// maxExcluded bounds the patterns of one instruction.
const maxExcluded = 64

func (s *copyStep) key(ctx context.Context, b *work) (any, error) {
	k := struct {
		Dest, Chown, From     string
		Mode                  *int64
		Whole, Unpack, Strict bool
		Sources               []string
		Parents               bool     `json:",omitempty"`
		Texts                 []text   `json:",omitempty"`
		Exclude               []string `json:",omitempty"`
		Into                  bool     `json:",omitempty"`
		Remotes               []remote `json:",omitempty"`
	}{s.dest, s.chown, "", s.mode, s.whole, s.unpack, s.strict, s.sources, s.parents, s.texts, s.exclude, s.into, nil}
	var err error
	if k.Remotes, err = s.remoteKeys(ctx, b); err != nil {
		return nil, err
	}
	if s.from != nil {
		k.From = s.from.state(b.builder)
	} else {
		k.Sources, err = b.describe(ctx, s.sources)
	}
	return k, err
}

func (s *copyStep) run(ctx context.Context, b *work) error {
	v, err := b.files(ctx)
	if err != nil {
		return err
	}
	uid, gid, err := v.owner(b.dir, s.chown)
	if err != nil {
		return fmt.Errorf("--chown=%s: %w", s.chown, err)
	}
	from, err := s.source(ctx, b)
	if err != nil {
		return err
	}
	c := &copier{ctx: ctx, step: s, b: b, from: from, view: v, uid: uid, gid: gid, items: map[string]item{},
		done: map[place]string{}}
	if len(s.exclude) > 0 {
		c.exclude, err = patternmatcher.New(s.exclude)
	}
	if err == nil {
		err = c.run()
	}
	return errors.Join(err, from.close())
}

func (s *copyStep) source(ctx context.Context, b *work) (source, error) {
	if s.from == nil {
		return contextSource{b.builder}, nil
	}
	return s.from.open(ctx, b.builder)
}

type copier struct {
	ctx      context.Context
	step     *copyStep
	b        *work
	from     source
	view     *view
	w        *writer // once there is something to write
	uid, gid int
	items    map[string]item
	done     map[place]string // files of another image that are written, for hard links
	exclude  *patternmatcher.PatternMatcher
	below    string // the source that is copied, for exclude
}

// run makes the layer, unless an earlier build has made the same.
func (c *copier) run() error {
	if c.step.unpack { // an archive is written while it is read
		return c.b.layer(c.ctx, c.view, func(w *writer) error {
			c.w = w
			return errors.Join(c.gather(), c.flush())
		})
	}
	c.view.next()
	if err := c.gather(); err != nil {
		return err
	}
	names := c.names()
	key := c.key(names)
	made, err := c.b.cached(c.ctx, key)
	if err != nil {
		return err
	}
	if made {
		c.b.progress("an earlier build has made the same layer")
		c.placed(names)
		return nil
	}
	before := len(c.b.layers)
	err = c.b.begunLayer(c.ctx, c.view, func(w *writer) error {
		c.w = w
		return c.writeAll(names)
	})
	if err != nil || key == "" {
		return err
	}
	return c.b.keepStep(c.ctx, key, before)
}

// names are those of the items, parents before what is in them.
func (c *copier) names() []string { return slices.Sorted(maps.Keys(c.items)) }

// key names the layer by all that it will have, which the files before it do not change as long as it goes to the same
// place among them. It is empty where that cannot be told.
func (c *copier) key(names []string) string {
	if c.b.cache == nil {
		return ""
	}
	type entry struct {
		At, Link, Sum string
		Kind          byte
		Mode          int64
		UID, GID      int
		From          [2]int
	}
	var list []entry
	for _, at := range names {
		i := c.items[at]
		n, sum := i.node, ""
		if n.kind == tar.TypeReg && c.step.from == nil && i.name != "" {
			sum = c.b.hashes.sums[i.name]
		}
		if n.kind == tar.TypeReg && (sum == "" && i.from == (place{}) || usersFile(at)) || i.open != nil {
			return ""
		}
		list = append(list, entry{at, n.link, sum, n.kind, n.mode, n.uid, n.gid, [2]int{i.from.layer, i.from.entry}})
	}
	from := ""
	if c.step.from != nil {
		from = c.step.from.state(c.b.builder)
	}
	return c.b.opts.keyOfLayer("copied", c.b.epoch.Unix(), from, list)
}

// placed has the view know where in the layer each entry is.
func (c *copier) placed(names []string) {
	for _, at := range names {
		c.header(at, c.items[at])
		c.view.entry++
	}
}

// gather finds what is copied, and to which places.
func (c *copier) gather() error {
	targets, err := c.targets()
	if err != nil {
		return err
	}
	if n := len(targets) + len(c.step.texts) + len(c.step.remotes); n > 1 && !strings.HasSuffix(c.step.dest, "/") {
		return manySources(n, c.step.dest)
	}
	for _, t := range targets {
		if err := c.source(t.src, t.dest); err != nil {
			return err
		}
	}
	for _, t := range c.step.texts {
		if err := c.text(t); err != nil {
			return err
		}
	}
	for _, r := range c.step.remotes {
		if err := c.remote(r); err != nil {
			return err
		}
	}
	return nil
}

// target is where one source goes.
type target struct{ src, dest string }

func (c *copier) targets() (out []target, err error) {
	for _, pattern := range c.step.sources {
		names, err := c.from.expand([]string{pattern})
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			dest := c.step.dest
			if c.step.parents {
				dest = c.withParents(pattern, name)
			}
			out = append(out, target{name, dest})
		}
	}
	return out, nil
}

// withParents is the destination with what of a source's path lies behind /./, or
// all of it.
func (c *copier) withParents(pattern, name string) string {
	if i := strings.LastIndex(pattern, "/./"); i >= 0 {
		above := len(components(path.Clean("/" + pattern[:i])))
		parts := components(name)
		name = path.Join(parts[min(above, len(parts)):]...)
	}
	n, err := c.from.stat(name, true)
	if err == nil && n.kind == tar.TypeDir {
		return path.Join(c.step.dest, name)
	}
	return path.Join(c.step.dest, path.Dir(name)) + "/"
}

// text writes a file that the recipe itself holds.
func (c *copier) text(t text) error {
	return c.own(t.Name, 0o644, func() (*content, error) {
		return &content{ReadCloser: io.NopCloser(strings.NewReader(t.Text)), size: int64(len(t.Text))}, nil
	})
}

// own writes a file that is in no source.
func (c *copier) own(name string, mode int64, open func() (*content, error)) error {
	at, err := c.place(c.step.dest, name)
	if err != nil {
		return err
	}
	if err := checkName(at); err != nil {
		return err
	}
	if old := c.view.get(at); old != nil && old.kind == tar.TypeDir {
		return fmt.Errorf("/%s is a directory in the image", at)
	}
	return c.put(at, item{node: c.dressed(&node{kind: tar.TypeReg, mode: mode}), name: name, open: open})
}

// place is where a file of this name goes, as root's path.
func (c *copier) place(dest, name string) (string, error) {
	if !strings.HasSuffix(dest, "/") && c.isDir(dest) {
		dest += "/"
	}
	dir, base := path.Split(dest)
	if base == "" {
		base = path.Base(name)
	}
	at, err := c.dir(dir)
	return path.Join(at, base), err
}

// left out tells whether --exclude names what is copied from a path.
func (c *copier) leftOut(name string) (bool, error) {
	if c.exclude == nil {
		return false, nil
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(name, c.below), "/")
	if c.below == "." {
		rel = name
	}
	return c.exclude.MatchesOrParentMatches(rel)
}

// flush writes what was collected.
func (c *copier) flush() error { return c.writeAll(c.names()) }

func (c *copier) writeAll(names []string) error {
	list := make([]item, 0, len(names))
	for _, at := range names {
		list = append(list, c.items[at])
	}
	if err := c.from.collect(c.ctx, list); err != nil {
		return err
	}
	for _, at := range names {
		if err := c.write(at, c.items[at]); err != nil {
			return err
		}
	}
	clear(c.items)
	return nil
}

func (c *copier) source(src, dest string) error {
	n, err := c.from.stat(src, true)
	if err != nil {
		return err
	}
	if n.kind == tar.TypeDir {
		c.below = src
		return c.directory(src, dest)
	}
	c.below = path.Dir(src)
	if out, err := c.leftOut(src); out || err != nil {
		return err
	}
	if c.step.unpack {
		done, err := c.archive(src)
		if done || err != nil {
			return err
		}
		if c.step.strict {
			return fmt.Errorf("%s is not an archive: want a tar, plain or in gzip, zstd or xz", src)
		}
	}
	at, err := c.place(dest, src)
	if err != nil {
		return err
	}
	return c.file(src, at, n)
}

func (c *copier) directory(src, dest string) error {
	if c.step.whole && (c.step.into || c.isDir(dest)) {
		dest = path.Join(dest, path.Base(src))
	}
	at, err := c.dir(dest)
	if err != nil {
		return err
	}
	return c.contents(src, at)
}

func (c *copier) isDir(p string) bool {
	_, n, missing, err := c.view.walk(p, true)
	return err == nil && len(missing) == 0 && n.kind == tar.TypeDir
}

// dir is a directory that an instruction names; what is missing of it is made,
// as root's.
func (c *copier) dir(p string) (string, error) {
	return c.view.dir(p, func(at string, n *node) error {
		c.items[at] = item{node: n}
		return checkName(at)
	})
}

// contents copies what is in a directory.
func (c *copier) contents(src, dest string) error {
	names, err := c.from.list(src)
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		name, at := path.Join(src, base), path.Join(dest, base)
		skip, look, err := c.from.skips(name)
		if out, xerr := c.leftOut(name); out || xerr != nil {
			skip, look, err = true, false, errors.Join(err, xerr)
		}
		switch {
		case err != nil:
		case !skip:
			err = c.child(name, at)
		case look:
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
	n, err := c.from.stat(src, false)
	if err != nil {
		return err
	}
	parent, err := c.dir(path.Dir(dest))
	if err != nil {
		return err
	}
	dest = path.Join(parent, path.Base(dest))
	if n.kind != tar.TypeDir {
		return c.file(src, dest, n)
	}
	if err := checkName(dest); err != nil {
		return err
	}
	at, there, missing, err := c.view.walk(dest, true)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		if c.view.get(dest) != nil {
			return fmt.Errorf("/%s is a link to nothing in the image and a directory in the source", dest)
		}
		made := c.dressed(n)
		made.names = map[string]*node{}
		if err := c.put(dest, item{node: made, name: src, from: n.from}); err != nil {
			return err
		}
		at = dest
	case there.kind != tar.TypeDir:
		return fmt.Errorf("/%s is a file in the image and a directory in the source", dest)
	}
	return c.contents(src, at)
}

func (c *copier) put(at string, i item) error {
	c.items[at] = i
	return c.view.put(at, i.node)
}

// file places a file or a link at a path whose parent is no link.
func (c *copier) file(src, at string, n *node) error {
	if err := checkName(at); err != nil {
		return err
	}
	if old := c.view.get(at); old != nil && old.kind == tar.TypeDir {
		return fmt.Errorf("/%s is a directory in the image and a file in the source: name it in the destination", at)
	}
	if n.kind == 0 {
		return fmt.Errorf("%s is not a regular file, directory or link: images hold nothing else", src)
	}
	return c.put(at, item{node: c.dressed(n), name: src, from: n.from})
}

// dressed is a node with the owner and the mode that the instruction gives it.
// A directory gets x where --chmod gives r.
func (c *copier) dressed(n *node) *node {
	out := &node{kind: n.kind, mode: n.mode, uid: n.uid, gid: n.gid, link: n.link}
	if c.step.chown != "" {
		out.uid, out.gid = c.uid, c.gid
	}
	if c.step.mode != nil && n.kind != tar.TypeSymlink {
		out.mode = *c.step.mode
		if n.kind == tar.TypeDir {
			out.mode |= out.mode & 0o444 >> 2
		}
	}
	return out
}

// header is an entry's without what its source tells. A file that is written already is a hard link.
func (c *copier) header(at string, i item) tar.Header {
	n := i.node
	h := tar.Header{Name: at, Typeflag: n.kind, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: c.b.epoch,
		Linkname: n.link}
	n.from = c.view.following()
	if i.from == (place{}) || n.kind != tar.TypeReg {
		return h
	}
	if to, again := c.done[i.from]; again {
		h.Typeflag, h.Linkname, n.from = tar.TypeLink, to, c.view.get(to).from
	} else {
		c.done[i.from] = at
	}
	return h
}

func (c *copier) write(at string, i item) (err error) {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	n, h := i.node, c.header(at, i)
	if i.name == "" || h.Typeflag == tar.TypeLink {
		return c.w.entry(h, nil)
	}
	r, err := c.open(i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if !r.mtime.IsZero() {
		h.ModTime = r.mtime
	}
	if r.flags != "" {
		h.PAXRecords = map[string]string{flagsRecord: r.flags}
	}
	if n.kind != tar.TypeReg {
		return c.w.entry(h, nil)
	}
	h.Size = r.size
	if usersFile(at) && r.size <= maxText { // a later --chown looks here
		if err = c.view.keepText(n, path.Base(at), r.size, r); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		return errors.Join(c.w.entry(h, bytes.NewReader(n.text)), r.verified())
	}
	return errors.Join(c.w.entry(h, r), r.verified())
}

func (c *copier) open(i item) (*content, error) {
	if i.open != nil {
		return i.open()
	}
	return c.from.open(c.ctx, i)
}

// flagsRecord holds file flags, as bsdtar writes them.
const flagsRecord = "SCHILY.fflags"
