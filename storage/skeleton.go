package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// A root that cannot be written to needs mount points that its image may lack,
// and the unpacked image is not the place to make them: other tasks see it. So
// each of the image's directories that lacks some is stood for by a directory of
// the task's own, a skeleton: its files and links are copies, its directories
// have the image's mounted on them.

// What a skeleton may copy. An image's / has some twenty directories and a few
// small files.
const (
	maxSkeletonNames = 1024
	maxSkeletonBytes = 16 << 20
)

// maxSkeletonMounts are those of all skeletons of a root: one for each directory in them.
const maxSkeletonMounts = 1024

// point is something to be mounted over, by its path in the root.
type point struct {
	path   string
	file   bool
	inside bool // links lead as in the root; see mount.Root.Inside
	// replaces is a name in the directory of the skeleton that is not the image's there.
	replaces string
}

func (p point) open(root *mount.Root) (*mount.Point, error) {
	switch {
	case p.file:
		return root.File(p.path)
	case p.inside:
		return root.Inside(p.path)
	}
	return root.Dir(p.path)
}

// makeAll makes the points that are missing in a root.
func makeAll(ctx context.Context, root *mount.Root, points []point) error {
	for _, p := range points {
		if err := ctx.Err(); err != nil {
			return err
		}
		at, err := p.open(root)
		if err == nil {
			err = at.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p point) deepest(tree *os.File) (have, lacks string, err error) {
	if p.inside {
		return mount.DeepestInside(tree, p.path)
	}
	return mount.Deepest(tree, p.path)
}

func (o Options) writablePoints() []point {
	var out []point
	for _, w := range o.writable() {
		out = append(out, point{path: w})
	}
	return append(out, o.volumePoints()...)
}

func (o Options) volumePoints() []point {
	var out []point
	for _, v := range o.Volumes {
		out = append(out, point{path: v, inside: true})
	}
	return out
}

func (o Options) points() []point {
	out := o.writablePoints()
	for _, d := range o.Dirs {
		out = append(out, point{path: d})
	}
	for _, f := range o.Files {
		out = append(out, point{path: f, file: true})
	}
	return out
}

// skeletons tells by directory of a tree which points are missing in it, as
// paths from there. What is below something writable is made there.
func skeletons(ctx context.Context, lower *os.File, o Options) (map[string][]point, error) {
	var writable []string
	for _, w := range o.writablePoints() {
		have, lacks, err := w.deepest(lower)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("writable path %s: %w", w.path, err)
		}
		writable = append(writable, path.Join(have, lacks))
	}
	out := map[string][]point{}
	add := func(have string, p point) {
		whole := path.Join(have, p.path)
		if !slices.ContainsFunc(writable, func(w string) bool { return strings.HasPrefix(whole, w+"/") }) {
			out[have] = append(out[have], p)
		}
	}
	for _, p := range o.points() {
		have, lacks, err := p.deepest(lower)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("mount point %s: %w", p.path, err)
		}
		if lacks != "" {
			add(have, point{path: lacks, file: p.file})
		}
	}
	for _, f := range o.Own {
		have, p, lacks, err := f.lack(lower)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("file %s: %w", f.Path, err)
		}
		if lacks {
			add(have, p)
		}
	}
	return out, nil
}

// show mounts a tree read-only on a root, with all points that it needs.
func (r readonly) show(ctx context.Context, by *mount.Descriptors, lower, root, task string, o Options) error {
	tree, err := mount.OpenPath(lower) // a server may exchange the last name of it for a link
	if err != nil {
		return err
	}
	defer tree.Close()
	need := o
	if o.Lower != "" {
		need.Dirs, need.Files = nil, nil
	}
	lacking, err := skeletons(ctx, tree, need)
	if err != nil {
		return err
	}
	if _, ok := lacking[""]; !ok {
		on, err := mount.OpenRoot(root)
		if err != nil {
			return err
		}
		what := mount.Mount{Type: "nullfs", From: tree, Source: lower, Options: append(setuid(o), "ro")}
		if err := errors.Join(by.On(on.Itself(), what), on.Close()); err != nil {
			return err
		}
	}
	mounts := 0
	for i, dir := range slices.Sorted(maps.Keys(lacking)) { // outer ones first
		s := skeleton{by: by, tree: tree, root: root, dir: dir, options: append(setuid(o), "ro"), mounts: &mounts,
			own: r.path("roots", task, "skeleton-"+strconv.Itoa(i))}
		if err := s.mount(ctx, lacking[dir]); err != nil {
			return fmt.Errorf("mount points in /%s: %w", dir, err)
		}
	}
	return nil
}

// skeleton stands for one directory of a tree in a root.
type skeleton struct {
	by         *mount.Descriptors
	tree       *os.File
	root       string
	dir        string // in the tree, without links; "" is all of it
	own        string
	options    []string
	names, sum int64 // of what is copied
	dirs       []string
	mounts     *int // of all skeletons of the root
	top        copied
}

func (s *skeleton) mount(ctx context.Context, lacks []point) error {
	if err := s.copy(ctx, lacks); err != nil {
		return err
	}
	if *s.mounts += len(s.dirs); *s.mounts > maxSkeletonMounts {
		return fmt.Errorf("its mount points need over %d mounts in directories of the image: make them in the image, "+
			"or choose a storage driver whose roots can be written to", maxSkeletonMounts)
	}
	for _, p := range lacks {
		if err := makePoint(filepath.Join(s.own, p.path), p.file); err != nil {
			return err
		}
	}
	if err := s.top.finish(); err != nil { // what was made has changed its times
		return err
	}
	own, err := openDir(s.own)
	if err != nil {
		return err
	}
	if err := errors.Join(s.on(s.dir, own), own.Close()); err != nil {
		return err
	}
	for _, d := range s.dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, _, err := mount.OpenIn(s.tree, path.Join(s.dir, d))
		if err != nil {
			return err
		}
		if err := errors.Join(s.on(path.Join(s.dir, d), from), from.Close()); err != nil {
			return err
		}
	}
	return nil
}

// on mounts an opened directory in the root, read-only.
func (s *skeleton) on(dir string, from *os.File) error {
	what := mount.Mount{Type: "nullfs", From: from, Options: s.options}
	r, err := mount.OpenRoot(s.root)
	if err != nil {
		return err
	}
	defer r.Close()
	at := r.Itself()
	if dir != "" {
		if at, err = r.Dir(dir); err != nil {
			return err
		}
		defer at.Close()
	}
	return s.by.On(at, what)
}

// copy makes the skeleton: copies of files and links, empty directories. What is replaced
// is left out.
func (s *skeleton) copy(ctx context.Context, lacks []point) error {
	from, _, err := mount.OpenIn(s.tree, s.dir)
	if err != nil {
		return err
	}
	c := &copier{ctx: ctx, shallow: true, check: s.check, without: map[string]bool{}}
	for _, p := range lacks {
		c.without[p.replaces] = true
	}
	err = errors.Join(c.tree(from, s.own), from.Close())
	s.dirs = c.dirs
	if err == nil {
		s.top = c.later[len(c.later)-1]
	}
	return err
}

func (s *skeleton) check(st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		s.sum += st.Size
	}
	if s.names++; s.names > maxSkeletonNames || s.sum > maxSkeletonBytes {
		return fmt.Errorf("/%s of the image is too large (over %d names or %d bytes of files) to add a mount point: "+
			"make it in the image, or choose a storage driver whose roots can be written to", s.dir, maxSkeletonNames,
			maxSkeletonBytes)
	}
	return nil
}

func makePoint(name string, file bool) error {
	if !file {
		return os.MkdirAll(name, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
