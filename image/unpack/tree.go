package unpack

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/remove"
)

// tree is a root that is being changed. Every way into it is a walker's, or
// os.Root's where directories are removed.
type tree struct {
	root   *os.Root
	dir    *os.File // the same
	budget *budget
	asRoot bool
	cur    *walker             // where entries are made
	links  *walker             // where hard links point to
	seed   maphash.Seed        // of made
	made   map[uint64]struct{} // hashes of what this layer has made: whiteouts spare it
	dirs   map[string]dirState // set at the end, when nothing is written any more
	flags  map[string]int      // file flags, likewise
	names  int                 // bytes of the paths in dirs and flags
	steps  int64               // of all walks
}

type dirState struct {
	setMode bool
	mode    uint32
	times   [2]unix.Timespec // of access, of change
}

// newTree works on a root, which stays the caller's.
func newTree(root *os.Root, b *budget) (*tree, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	t := &tree{root: root, dir: dir, budget: b, asRoot: os.Geteuid() == 0, seed: maphash.MakeSeed(),
		made: map[uint64]struct{}{}, dirs: map[string]dirState{}, flags: map[string]int{}}
	top := &folder{int(dir.Fd()), "."}
	t.cur, t.links = &walker{t, []*folder{top}}, &walker{t, []*folder{top}}
	return t, nil
}

func (t *tree) close() error {
	return errors.Join(t.cur.back(1), t.links.back(1), t.dir.Close())
}

// open gives an entry's parent directory, valid until the next call. Links in
// the path are followed within the tree.
func (t *tree) open(dir string, create bool) (*folder, error) {
	f, err := t.cur.open(cmp.Or(dir, "."), create, true)
	if err != nil {
		return nil, err
	}
	return f, t.touch(f)
}

// implied makes a directory that no entry has named yet.
func (t *tree) implied(in *folder, name string) (int, error) {
	err := errors.Join(t.budget.addEntry(), t.touch(in))
	if err == nil {
		err = unix.Mkdirat(in.fd, name, 0o755)
	}
	if err != nil {
		return -1, err
	}
	fd, err := openDirAt(in.fd, name)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, 0o755); err != nil { // whatever the umask is
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// touch remembers a directory's times before something in it is changed.
func (t *tree) touch(f *folder) error {
	if _, known := t.dirs[f.path]; known {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	s := dirState{mode: uint32(st.Mode) & 0o7777, times: [2]unix.Timespec{st.Atim, st.Mtim}}
	if !t.asRoot && s.mode&0o300 != 0o300 {
		s.setMode = true
		if err := unix.Fchmod(f.fd, s.mode|0o300); err != nil {
			return err
		}
	}
	if err := t.remember(f.path, s); err != nil {
		return err
	}
	old, err := melt(f.fd, &st)
	if old != 0 {
		t.flags[f.path] = old
	}
	return err
}

// maxRemembered bounds what is held in memory until the end: each path with what
// is known of it.
const (
	maxRemembered  = 64 << 20
	rememberedCost = 100 // beside the path itself
)

func (t *tree) remember(p string, s dirState) error {
	if _, known := t.dirs[p]; !known {
		t.names += len(p) + rememberedCost
	}
	t.dirs[p] = s
	return t.checkNames()
}

func (t *tree) checkNames() error {
	if t.names > maxRemembered {
		return fmt.Errorf("too many directories, or paths too long: they need more than %d bytes of memory",
			maxRemembered)
	}
	return nil
}

func (t *tree) mark(p string) {
	for p != "" {
		h := maphash.String(t.seed, p)
		if _, known := t.made[h]; known {
			return
		}
		t.made[h] = struct{}{}
		p = parent(p)
	}
}

func (t *tree) marked(p string) bool {
	_, ok := t.made[maphash.String(t.seed, p)]
	return ok
}

func parent(p string) string { return p[:max(strings.LastIndexByte(p, '/'), 0)] }

// hide removes what lower layers have under a name, and spares what this layer
// has put there, in whatever order they come.
func (t *tree) hide(f *folder, name string) error {
	if !t.marked(f.join(name)) {
		return t.remove(f, name)
	}
	return t.within(f, func(in *os.Root) error { return t.hideIn(in, f.path, name) })
}

func (t *tree) hideContents(f *folder) error {
	return t.within(f, func(in *os.Root) error { return t.hideContentsIn(in, f.path) })
}

// within gives a directory to what may remove directories in it.
func (t *tree) within(f *folder, do func(in *os.Root) error) error {
	if err := errors.Join(t.links.back(1), t.step(1+strings.Count(f.path, "/"))); err != nil {
		return err
	}
	in, err := t.root.OpenRoot(f.path)
	if err != nil {
		return err
	}
	return errors.Join(do(in), in.Close())
}

func (t *tree) hideIn(in *os.Root, dir, name string) (err error) {
	p := path.Join(dir, name)
	if !t.marked(p) {
		return removeIn(in, name)
	}
	if err := t.step(1); err != nil { // what is spared can be asked for again and again
		return err
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
	return errors.Join(t.hideContentsIn(sub, p), sub.Close())
}

func (t *tree) hideContentsIn(in *os.Root, dir string) error {
	f, err := in.Open(".")
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	for _, n := range names {
		if err == nil {
			err = t.hideIn(in, dir, n)
		}
	}
	return err
}

// remove removes an entry with all that is in it; none is no error.
func (t *tree) remove(f *folder, name string) error {
	err := unix.Unlinkat(f.fd, name, 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// It is a directory, or frozen.
	return t.within(f, func(in *os.Root) error { return removeIn(in, name) })
}

// clear makes way for an entry.
func (t *tree) clear(f *folder, base string) error {
	p := f.join(base)
	delete(t.dirs, p)
	delete(t.flags, p)
	return t.remove(f, base)
}

func (t *tree) chown(f *folder, name string, h *tar.Header) error {
	if !t.asRoot {
		return nil
	}
	return unix.Fchownat(f.fd, name, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

// mode has no setuid and setgid where the owner would be another than wanted.
func (t *tree) mode(h *tar.Header) uint32 {
	if t.asRoot {
		return uint32(h.Mode & 0o7777)
	}
	return uint32(h.Mode & 0o1777)
}

func (t *tree) setDir(p string, h *tar.Header) error {
	times, err := timesOf(h)
	if err == nil {
		err = t.remember(p, dirState{setMode: true, mode: t.mode(h), times: times})
	}
	delete(t.flags, p) // the layer's own replace those of before
	return errors.Join(err, t.setFlags(p, h))
}

func (t *tree) setFlags(p string, h *tar.Header) error {
	flags := flagsOf(h)
	if flags == 0 {
		return nil
	}
	t.flags[p] = flags
	t.names += len(p) + rememberedCost
	return t.checkNames()
}

// timesOf are an entry's times of access and of change.
func timesOf(h *tar.Header) (ts [2]unix.Timespec, err error) {
	atime := h.AccessTime
	if atime.IsZero() {
		atime = h.ModTime
	}
	for i, t := range []time.Time{atime, h.ModTime} {
		if ts[i], err = unix.TimeToTimespec(t); err != nil {
			return ts, fmt.Errorf("the time %s: %w", t, err)
		}
	}
	return ts, nil
}

// finish gives directories their modes and times, the deepest first, and then
// everything its file flags, which may forbid any further change.
func (t *tree) finish() error {
	for _, p := range slices.SortedFunc(maps.Keys(t.dirs), deepestFirst) {
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

func (t *tree) finishDir(p string, s dirState) error {
	f, err := t.cur.open(p, false, false)
	if err != nil {
		return gone(err)
	}
	if s.setMode {
		err = unix.Fchmod(f.fd, s.mode)
	}
	return errors.Join(err, setTimes(f.fd, &s.times))
}

// thaw takes away file flags that forbid to change something.
func thaw(f *folder, name string, st *unix.Stat_t) (old int, err error) {
	if !frozen(st) {
		return 0, nil
	}
	fd, err := openAt(f.fd, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	old, err = melt(fd, st)
	return old, errors.Join(err, unix.Close(fd))
}

// freeze sets file flags.
func (t *tree) freeze(p string, flags int) error {
	f, err := t.cur.open(path.Dir(p), false, false)
	if err != nil {
		return gone(err)
	}
	base := path.Base(p)
	var st unix.Stat_t
	err = statAt(f.fd, base, &st)
	if err != nil || !isType(&st, unix.S_IFDIR) && !isType(&st, unix.S_IFREG) {
		return gone(err)
	}
	fd, err := openAt(f.fd, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	return errors.Join(setFlags(fd, flags), unix.Close(fd))
}

// link makes a hard link; what is frozen takes none.
func (t *tree) link(from *folder, target string, st *unix.Stat_t, to *folder, name string) error {
	err := unix.Linkat(from.fd, target, to.fd, name, 0)
	if !errors.Is(err, fs.ErrPermission) || !frozen(st) {
		return err
	}
	old, err := thaw(from, target, st)
	if err != nil {
		return err
	}
	t.flags[from.join(target)] = old
	return unix.Linkat(from.fd, target, to.fd, name, 0)
}

// removeIn is for a name in an opened directory.
func removeIn(root *os.Root, name string) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(remove.At(dir, name), dir.Close())
}
