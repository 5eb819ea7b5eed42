package treecopy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Receive makes the files of a tar archive in a tree, at the place that a path means for what is copied; see Source.
// A file that is there is replaced at once by the whole new one, a link too; a directory stays, with what it has.
// Links in the tree are followed in that path alone. Who receives is the owner, unless owners are kept.
func Receive(ctx context.Context, root *os.File, dst string, src Source, o Options, from io.Reader) error {
	r := &receiver{ctx: ctx, o: o, strip: src.Name != "", in: tar.NewReader(&told{ctx: ctx, r: from}),
		files: map[[sha256.Size]byte]bool{}}
	if strings.Contains(src.Name, "/") || src.Name == ".." {
		return fmt.Errorf("%q is not the name of a file", src.Name)
	}
	first, err := r.next()
	if err != nil {
		return err
	}
	src.dir = first != nil && first.Typeflag == tar.TypeDir
	if r.place, err = find(root, dst, src); err != nil {
		return err
	}
	defer r.place.base.Close()
	var mounted map[file]string
	st, err := stat(r.place.base)
	if err == nil {
		mounted = o.mounted(root)
		err = checkPlain(r.place.base, st, 0, mounted)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dst, err)
	}
	r.way = way{{r.place.base, "", uint64(st.Dev), mounted}}
	err = r.all(first)
	return errors.Join(err, r.finish(), r.way.back(1))
}

type receiver struct {
	ctx     context.Context
	o       Options
	place   place
	strip   bool // the first name of entries
	in      *tar.Reader
	entries int
	bytes   int64
	files   map[[sha256.Size]byte]bool // that were made, by their names
	dirs    []madeDir
	names   names // of those
	way     way
}

// madeDir is a directory that gets its mode and time when nothing is made in it any more.
type madeDir struct {
	name string
	id   file
	attributes
}

// attributes are what is kept of an entry, whose header may have a megabyte of records.
type attributes struct {
	mode     uint32
	uid, gid uint32
	time     unix.Timeval
}

func attributesOf(h *tar.Header) (attributes, error) {
	ts, err := unix.TimeToTimespec(h.ModTime)
	return attributes{uint32(h.Mode), uint32(h.Uid), uint32(h.Gid), unix.NsecToTimeval(ts.Nano())}, err
}

// all makes what there is, from the first entry on.
func (r *receiver) all(h *tar.Header) (err error) {
	for h != nil {
		if err := r.entry(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if h, err = r.next(); err != nil {
			return err
		}
	}
	return nil
}

// bare is an error without the name under which a file was made: the user has named another one.
func bare(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// next is nil at the end.
func (r *receiver) next() (*tar.Header, error) {
	h, err := r.in.Next()
	switch {
	case err == io.EOF && r.entries == 0 && r.strip:
		return nil, errors.New("the archive is empty")
	case err == io.EOF:
		return nil, nil
	case context.Cause(r.ctx) != nil:
		return nil, context.Cause(r.ctx)
	case err != nil:
		return nil, fmt.Errorf("the archive: %w", err)
	}
	if r.entries++; r.entries > maxEntries {
		return nil, fmt.Errorf("the archive has more than %d files", maxEntries)
	}
	return h, nil
}

// rename is what an entry is called in the place; empty is the place itself.
func (r *receiver) rename(name string) (string, error) {
	if strings.Contains(name, "\x00") || strings.Contains("/"+name+"/", "/../") {
		return "", errors.New("the name leads out of the archive")
	}
	if r.strip {
		_, name, _ = strings.Cut(strings.TrimPrefix(name, "/"), "/")
	}
	return strings.TrimPrefix(path.Join("/", r.place.name, name), "/"), nil
}

func (r *receiver) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := r.rename(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return fmt.Errorf("invalid owner %d:%d", h.Uid, h.Gid)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("it is not a directory, and would replace one")
		}
		return nil
	}
	dir, err := r.way.open(path.Dir(name), true)
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return r.dir(dir, base, name, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		r.files[sha256.Sum256([]byte(name))] = true
		return r.replace(dir, base, func(tmp string) error { return r.file(dir, tmp, h) })
	case tar.TypeSymlink:
		return r.replace(dir, base, func(tmp string) error { return r.symlink(dir, tmp, h) })
	case tar.TypeLink:
		return r.hardLink(dir, base, h)
	}
	r.o.problem(h.Name, "left out: neither a file nor a directory nor a link")
	return nil
}

func (r *receiver) dir(in *os.File, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(int(in.Fd()), base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		_, err = r.way.open(name, false) // it stays as it is
		return err
	}
	if err != nil {
		return err
	}
	if !r.names.add(name) {
		return fmt.Errorf("the names of directories are more than %d bytes", maxNames)
	}
	d, err := r.way.open(name, false)
	if err != nil {
		return err
	}
	st, err := stat(d)
	if err != nil {
		return err
	}
	a, err := attributesOf(h)
	r.dirs = append(r.dirs, madeDir{strings.Clone(name), file{uint64(st.Dev), uint64(st.Ino)}, a})
	return err
}

// replace has a name mean what is made under another one, at once.
func (r *receiver) replace(dir *os.File, base string, create func(tmp string) error) error {
	fd, tmp := int(dir.Fd()), ".freejail-"+rand.Text()
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && kind(&st) == unix.S_IFDIR {
		return errors.New("a directory is there, which is not replaced")
	}
	err := bare(create(tmp))
	if err == nil {
		err = unix.Renameat(fd, tmp, fd, base)
	}
	if err != nil || st.Nlink > 0 { // of two links to one file none goes
		if uerr := unix.Unlinkat(fd, tmp, 0); uerr != nil && !errors.Is(uerr, fs.ErrNotExist) &&
			!errors.Is(err, uerr) { // of a file system that cannot be written nothing has to be told twice
			err = errors.Join(err, uerr)
		}
	}
	return err
}

func (r *receiver) file(dir *os.File, tmp string, h *tar.Header) (err error) {
	if r.bytes += h.Size; r.bytes > r.o.MaxBytes || r.bytes < 0 {
		return fmt.Errorf("the files are more than %d bytes", r.o.MaxBytes)
	}
	f, err := openAt(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fill(f, r.in, h.Size); err != nil {
		return err
	}
	a, err := attributesOf(h)
	if err != nil {
		return err
	}
	return r.give(f, a, 0)
}

// fill writes what is not zeros, and leaves holes for the rest.
func fill(f *os.File, in io.Reader, size int64) error {
	block, none := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < size; {
		b := block[:min(int64(len(block)), size-at)]
		if _, err := io.ReadFull(in, b); err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		if !bytes.Equal(b, none[:len(b)]) {
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
		}
		at += int64(len(b))
	}
	return f.Truncate(size)
}

// give has an open file or directory that was just made have what it is to, and of the bits beside the permissions
// those of special.
func (r *receiver) give(f *os.File, a attributes, special uint32) error {
	mode := a.mode & (0o777 | special)
	if r.o.Owners {
		mode = a.mode & 0o7777
	}
	if uid, gid, given := r.owner(a); given {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil { // after the owner, which takes set-id bits away
		return err
	}
	return unix.Futimes(int(f.Fd()), []unix.Timeval{a.time, a.time})
}

// owner is whose what is made is to be, if that is to be set.
func (r *receiver) owner(a attributes) (uid, gid int, given bool) {
	if r.o.Owners {
		return int(a.uid), int(a.gid), true
	}
	return 0, 0, r.o.Own
}

func (r *receiver) symlink(dir *os.File, tmp string, h *tar.Header) error {
	if err := unix.Symlinkat(h.Linkname, int(dir.Fd()), tmp); err != nil {
		return err
	}
	if uid, gid, given := r.owner(attributes{uid: uint32(h.Uid), gid: uint32(h.Gid)}); given {
		return unix.Fchownat(int(dir.Fd()), tmp, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	return nil
}

// hardLink is to a file that the archive has: to no other of the tree.
func (r *receiver) hardLink(dir *os.File, base string, h *tar.Header) error {
	to, err := r.rename(h.Linkname)
	if err != nil || !r.files[sha256.Sum256([]byte(to))] {
		return errors.Join(err, fmt.Errorf("it is a hard link to %q, which is no file of the archive", h.Linkname))
	}
	other := way{{r.place.base, "", r.way[0].dev, r.way[0].mounted}}
	from, err := other.open(path.Dir(to), false)
	if err == nil {
		err = r.replace(dir, base, func(tmp string) error {
			return unix.Linkat(int(from.Fd()), path.Base(to), int(dir.Fd()), tmp, 0)
		})
	}
	return errors.Join(err, other.back(1))
}

// finish gives directories what they are to have, those in others first.
func (r *receiver) finish() (err error) {
	for i := len(r.dirs) - 1; i >= 0; i-- {
		err = errors.Join(err, r.finishDir(r.dirs[i]))
	}
	return err
}

func (r *receiver) finishDir(d madeDir) error {
	f, err := r.way.open(d.name, false)
	if err != nil {
		return err
	}
	st, err := stat(f)
	if err != nil || (file{uint64(st.Dev), uint64(st.Ino)}) != d.id {
		return err // it is another's by now
	}
	own, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(r.give(own, d.attributes, sticky), own.Close())
}

// sticky keeps those who may write in a directory from removing others' files: without it, it would be open to all.
const sticky = 0o1000

// way are the directories that are open, from the place down to the last that was asked for.
type way []folder

type folder struct {
	dir  *os.File
	name string
	dev  uint64

	mounted map[file]string // what is not seen
}

// back leaves directories until n are open.
func (w *way) back(n int) (err error) {
	for len(*w) > n {
		last := len(*w) - 1
		err = errors.Join(err, (*w)[last].dir.Close())
		*w = (*w)[:last]
	}
	return err
}

// open goes to a directory below the place, through no link, and makes what is missing if that is wanted. It stays
// open until the next call.
func (w *way) open(name string, create bool) (*os.File, error) {
	names := strings.Split(name, "/")
	if name == "." {
		names = nil
	}
	same := 0
	for same < len(names) && same+1 < len(*w) && (*w)[same+1].name == names[same] {
		same++
	}
	if err := w.back(same + 1); err != nil {
		return nil, err
	}
	for _, n := range names[same:] {
		if err := w.enter(n, create); err != nil {
			return nil, err
		}
	}
	return (*w)[len(*w)-1].dir, nil
}

func (w *way) enter(name string, create bool) error {
	if len(*w) > maxDepth {
		return fmt.Errorf("directories are more than %d deep", maxDepth)
	}
	top := (*w)[len(*w)-1]
	d, err := openPlace(top.dir, name, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) && create {
		d, err = implied(top.dir, name)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK) {
		err = fmt.Errorf("%s is there, and not a directory: links are not followed", name)
	}
	if err != nil {
		return err
	}
	st, err := stat(d)
	if err == nil {
		err = checkPlain(d, st, top.dev, top.mounted)
	}
	if err != nil {
		return errors.Join(err, d.Close())
	}
	*w = append(*w, folder{d, name, uint64(st.Dev), top.mounted})
	return nil
}

// implied makes a directory that no entry has named yet.
func implied(in *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(in.Fd()), name, 0o755); err != nil {
		return nil, err
	}
	own, err := openAt(in, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	err = unix.Fchmod(int(own.Fd()), 0o755) // whatever the umask is
	if err = errors.Join(err, own.Close()); err != nil {
		return nil, err
	}
	return openPlace(in, name, unix.O_DIRECTORY)
}
