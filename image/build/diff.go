package build

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/regular"
)

// state is what one entry of a root was like. The time of the last change of
// its status tells of every change that the rest does not.
type state struct {
	mode     fs.FileMode
	size     int64
	mtime    time.Time
	link     string
	uid, gid uint32
	inode    uint64
	links    uint64
	changed  time.Time
}

// record walks a root without leaving it.
func record(ctx context.Context, root *os.Root) (map[string]state, error) {
	out := map[string]state{}
	todo := []string{"."}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			s, err := stateOf(root, name)
			if err != nil {
				return nil, err
			}
			out[name] = s
			if s.mode.IsDir() {
				todo = append(todo, name)
			}
		}
	}
	return out, nil
}

func stateOf(root *os.Root, name string) (s state, err error) {
	fi, err := root.Lstat(name)
	if err != nil {
		return s, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return s, fmt.Errorf("%s: file owners are not supported on this system", name)
	}
	s = state{mode: fi.Mode(), size: fi.Size(), mtime: fi.ModTime(), uid: st.Uid, gid: st.Gid,
		inode: st.Ino, links: uint64(st.Nlink), changed: changeTime(st)}
	if s.mode&fs.ModeSymlink != 0 {
		s.link, err = root.Readlink(name)
	}
	return s, err
}

// same is for what is not rewritten: a directory is the same while only what is
// in it differs.
func (s state) same(o state) bool {
	if s.mode != o.mode || s.uid != o.uid || s.gid != o.gid || s.link != o.link {
		return false
	}
	if s.mode.IsDir() {
		return true
	}
	return s.size == o.size && s.inode == o.inode && s.mtime.Equal(o.mtime) && s.changed.Equal(o.changed)
}

// change is one entry of a layer: an entry that is new or different, or one
// that is gone.
type change struct {
	name string
	gone bool
}

// entry is the name in the layer.
func (c change) entry() string {
	if !c.gone {
		return c.name
	}
	dir, base := path.Split(c.name)
	return dir + whiteoutPrefix + base
}

// diff lists what a layer must say, parents before what is in them.
func diff(before, after map[string]state) []change {
	var out []change
	for name, s := range after {
		if old, was := before[name]; !was || !s.same(old) {
			out = append(out, change{name: name})
		}
	}
	for name := range before {
		if _, is := after[name]; is {
			continue
		}
		// What was in something that is gone, or is no directory now, went with it.
		if parent := path.Dir(name); parent == "." || after[parent].mode.IsDir() {
			out = append(out, change{name: name, gone: true})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.entry(), b.entry()) })
	return out
}

// changes writes a diff. File flags are left out: a jail cannot set any.
func (w *writer) changes(ctx context.Context, root *os.Root, list []change, after map[string]state) error {
	first := map[uint64]string{} // of several hard links the first is the file
	for _, c := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if err = checkName(c.name); err != nil {
			return err
		}
		if c.gone {
			err = w.write(tar.Header{Name: c.entry(), Typeflag: tar.TypeReg, Mode: 0o644, ModTime: w.epoch}, nil)
		} else {
			err = w.changed(ctx, root, c.name, after[c.name], first)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) changed(ctx context.Context, root *os.Root, name string, s state, first map[uint64]string) error {
	h := tar.Header{Name: name, Mode: tarMode(s.mode), Uid: int(s.uid), Gid: int(s.gid), ModTime: s.mtime}
	var r io.Reader = bytes.NewReader(nil)
	switch s.mode.Type() {
	case fs.ModeSocket:
		return nil // nobody listens any more
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, s.link, 0o777 // some systems keep the umask's
	case 0:
		if to, again := first[s.inode]; again && s.links > 1 {
			h.Typeflag, h.Linkname = tar.TypeLink, to
			break
		}
		first[s.inode] = name
		f, _, err := regular.OpenIn(root, name)
		if err != nil {
			return err
		}
		defer f.Close()
		h.Typeflag, h.Size, r = tar.TypeReg, s.size, readerOf(ctx, f)
	default:
		return fmt.Errorf("RUN left /%s, a device node: an image cannot have it", name)
	}
	return w.entry(h, r)
}

// keep writes an entry and remembers it.
func (w *writer) keep(h tar.Header, r io.Reader) error {
	n, err := w.view.nodeOf(&h, h.Name, r)
	if err != nil {
		return err
	}
	if h.Typeflag != tar.TypeLink {
		n.from = w.view.following()
	}
	if n.text != nil { // which is read
		r = bytes.NewReader(n.text)
	}
	if err := w.entry(h, r); err != nil {
		return err
	}
	return w.view.put(h.Name, n)
}

func tarMode(m fs.FileMode) int64 {
	out := int64(m.Perm())
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&mode != 0 {
			out |= bit
		}
	}
	return out
}
