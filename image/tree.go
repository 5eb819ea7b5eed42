package image

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tree is a root that is being changed. Every way into it goes through os.Root
// one component at a time, so that no link in it can lead out.
type tree struct {
	root   *os.Root
	budget *budget
	asRoot bool
	cur    *folder             // the folder of the last entry: most share theirs
	made   map[string]bool     // what this layer has made: whiteouts spare it
	dirs   map[string]dirState // set at the end, when nothing is written any more
	flags  map[string]int      // file flags, likewise
}

type dirState struct {
	setMode      bool
	mode         fs.FileMode
	atime, mtime time.Time
}

// folder is an open directory of the tree.
type folder struct {
	root *os.Root
	dir  *os.File
	path string // from the tree's root, without links; "." is that root
}

func newTree(root *os.Root, b *budget) *tree {
	return &tree{root: root, budget: b, asRoot: os.Geteuid() == 0,
		made: map[string]bool{}, dirs: map[string]dirState{}, flags: map[string]int{}}
}

func (t *tree) close() error {
	return errors.Join(t.leave(), t.root.Close())
}

func (t *tree) leave() error {
	if t.cur == nil {
		return nil
	}
	err := errors.Join(t.cur.dir.Close(), t.cur.root.Close())
	t.cur = nil
	return err
}

// open gives an entry's parent directory, valid until the next call. Links in
// the path are followed within the tree, where an absolute one means the tree's
// root; missing directories are made on demand.
func (t *tree) open(dir string, create bool) (*folder, error) {
	dir = cmp.Or(dir, ".")
	if t.cur != nil && t.cur.path == dir {
		return t.cur, nil
	}
	if err := t.leave(); err != nil {
		return nil, err
	}
	root, at, err := t.walk(dir, create, true)
	if err != nil {
		return nil, err
	}
	f := &folder{root: root, path: at}
	if f.dir, err = root.Open("."); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	t.cur = f
	return f, t.touch(f)
}

// touch remembers a directory's times before something in it is changed.
func (t *tree) touch(f *folder) error {
	if _, known := t.dirs[f.path]; known {
		return nil
	}
	fi, err := f.dir.Stat()
	if err != nil {
		return err
	}
	t.dirs[f.path] = dirState{mtime: fi.ModTime()}
	if m := fi.Mode(); !t.asRoot && m&0o300 != 0o300 {
		t.dirs[f.path] = dirState{setMode: true, mode: m, mtime: fi.ModTime()}
		if err := f.root.Chmod(".", m|0o300); err != nil {
			return err
		}
	}
	old, err := melt(f.dir, fi)
	if old != 0 {
		t.flags[f.path] = old
	}
	return err
}

func (t *tree) mark(p string) {
	for ; p != "." && !t.made[p]; p = path.Dir(p) {
		t.made[p] = true
	}
}

// hide removes what lower layers have under a name, and spares what this layer
// has put there, in whatever order they come.
func (t *tree) hide(in *os.Root, dir, name string) (err error) {
	p := path.Join(dir, name)
	if !t.made[p] {
		return removeAll(in, name)
	}
	fi, err := in.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	sub, err := in.OpenRoot(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	return t.hideContents(sub, p)
}

func (t *tree) hideContents(in *os.Root, dir string) error {
	f, err := in.Open(".")
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	for _, n := range names {
		err = errors.Join(err, t.hide(in, dir, n))
	}
	return err
}

// clear makes way for an entry.
func (t *tree) clear(f *folder, base string) error {
	p := path.Join(f.path, base)
	delete(t.dirs, p)
	delete(t.flags, p)
	return removeAll(f.root, base)
}

func (t *tree) chown(in *os.Root, name string, h *tar.Header) error {
	if !t.asRoot {
		return nil
	}
	return in.Lchown(name, h.Uid, h.Gid)
}

// mode has no setuid and setgid where the owner would be another than wanted.
func (t *tree) mode(h *tar.Header) fs.FileMode {
	m := fs.FileMode(h.Mode & 0o777)
	if h.Mode&0o4000 != 0 && t.asRoot {
		m |= fs.ModeSetuid
	}
	if h.Mode&0o2000 != 0 && t.asRoot {
		m |= fs.ModeSetgid
	}
	if h.Mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

func (t *tree) setDir(p string, h *tar.Header, mode fs.FileMode) {
	t.dirs[p] = dirState{setMode: true, mode: mode, atime: accessTime(h), mtime: h.ModTime}
	delete(t.flags, p) // the layer's own replace those of before
	t.setFlags(p, h)
}

func (t *tree) setFlags(p string, h *tar.Header) {
	if flags := flagsOf(h); flags != 0 {
		t.flags[p] = flags
	}
}

// finish gives directories their modes and times, the deepest first, and then
// everything its file flags, which may forbid any further change.
func (t *tree) finish() error {
	if err := t.leave(); err != nil {
		return err
	}
	names := slices.SortedFunc(maps.Keys(t.dirs), deepestFirst)
	for _, p := range names {
		if err := t.finishDir(p, t.dirs[p]); err != nil {
			return fmt.Errorf("entry %q: %w", p, err)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(t.flags), deepestFirst) {
		if err := t.freeze(p, t.flags[p]); err != nil {
			return fmt.Errorf("entry %q: file flags: %w", p, err)
		}
	}
	return nil
}

// deepestFirst sorts what is in a directory before it.
func deepestFirst(a, b string) int {
	key := func(p string) string {
		if p == "." {
			return ""
		}
		return p
	}
	return strings.Compare(key(b), key(a))
}

// gone passes over what a later entry has removed or replaced.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
		return nil
	}
	return err
}

func (t *tree) finishDir(p string, s dirState) (err error) {
	root, _, err := t.walk(p, false, false)
	if err != nil {
		return gone(err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if s.setMode {
		err = root.Chmod(".", s.mode)
	}
	return errors.Join(err, root.Chtimes(".", s.atime, s.mtime))
}

// thaw takes away file flags that forbid to change something.
func (t *tree) thaw(in *os.Root, name string, fi fs.FileInfo) (old int, err error) {
	if !frozen(fi) {
		return 0, nil
	}
	f, err := in.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return melt(f, fi)
}

// freeze sets file flags.
func (t *tree) freeze(p string, flags int) (err error) {
	root, _, err := t.walk(path.Dir(p), false, false)
	if err != nil {
		return gone(err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	base := path.Base(p)
	fi, err := root.Lstat(base)
	if err != nil || !fi.IsDir() && !fi.Mode().IsRegular() {
		return gone(err)
	}
	f, err := root.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(setFlags(f, flags), f.Close())
}

// link makes a hard link; what is frozen takes none.
func (t *tree) link(target, name string, fi fs.FileInfo) error {
	err := t.root.Link(target, name)
	if !errors.Is(err, fs.ErrPermission) || !frozen(fi) {
		return err
	}
	old, err := t.thaw(t.root, target, fi)
	if err != nil {
		return err
	}
	t.flags[target] = old
	return t.root.Link(target, name)
}
