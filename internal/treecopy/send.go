package treecopy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// Send writes a file or a directory of a tree as a tar archive. Its entries begin with the path's last name. A link
// at the end of the path is copied itself, unless it is to be followed or the path ends in a slash. A file has the
// size that it had when it was opened.
func Send(ctx context.Context, root *os.File, name string, follow bool, o Options, to io.Writer) error {
	clean, dir, _ := Names(name)
	if !follow && !dir {
		return send(ctx, root, clean, path.Base(clean), o, to)
	}
	f, real, err := mount.OpenInside(root, clean)
	if err != nil {
		return orMissing(err, clean, dir)
	}
	if dir {
		err = isDir(f, name)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return send(ctx, root, "/"+real, path.Base(clean), o, to)
}

// send sends what has a path without a link at its end, under a name.
func send(ctx context.Context, root *os.File, clean, as string, o Options, to io.Writer) error {
	parent, _, err := mount.OpenInside(root, path.Dir(clean))
	if err != nil {
		return orMissing(err, clean, false)
	}
	defer parent.Close()
	s := &sender{ctx: ctx, o: o, mounted: o.mounted(root), out: tar.NewWriter(to), entries: 1, seen: map[file]string{}}
	base := path.Base(clean)
	if clean == "/" {
		base = "."
	}
	if as == "/" {
		as = "."
	}
	if err := s.entry(parent, base, as, 0); err != nil {
		var own *entryError
		if errors.As(err, &own) {
			err = own.err
		}
		if errors.Is(err, fs.ErrNotExist) {
			return s.absent(parent, clean)
		}
		return fmt.Errorf("%s: %w", clean, err)
	}
	return s.out.Close()
}

// absent tells of a path at which nothing is, or is seen.
func (s *sender) absent(parent *os.File, clean string) error {
	if st, err := stat(parent); err == nil {
		if err := checkPlain(parent, st, uint64(st.Dev), s.mounted); err != nil {
			return fmt.Errorf("%s: %w", clean, err)
		}
	}
	return &missing{clean, false}
}

type sender struct {
	ctx     context.Context
	o       Options
	out     *tar.Writer
	entries int // that were listed
	bytes   int64
	listed  names           // in the directories that are open
	mounted map[file]string // what is not seen
	seen    map[file]string // those with several links, by what they are in the archive
	links   names           // of those
	depth   int
}

// entryError is of one entry, which the rest does not need.
type entryError struct{ err error }

func (e *entryError) Error() string { return e.err.Error() }

// entry sends what has a name in a directory. Dev is of that, 0 for what the copy begins with.
func (s *sender) entry(dir *os.File, name, as string, dev uint64) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	f, err := openPlace(dir, name, 0)
	if err != nil {
		return &entryError{err}
	}
	defer f.Close()
	st, err := stat(f)
	if err == nil {
		err = checkPlain(f, st, dev, s.mounted)
	}
	if err != nil {
		return &entryError{err}
	}
	switch kind(st) {
	case unix.S_IFREG:
		return s.file(f, st, as)
	case unix.S_IFDIR:
		return s.dir(f, st, as)
	case unix.S_IFLNK:
		return s.link(dir, name, st, as)
	}
	return &entryError{fmt.Errorf("it is %s", kindText(st))}
}

func (s *sender) header(st *unix.Stat_t, as string, typeflag byte) *tar.Header {
	return &tar.Header{Typeflag: typeflag, Name: as, Mode: int64(uint32(st.Mode) & 0o7777), Uid: int(st.Uid),
		Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX}
}

func (s *sender) link(dir *os.File, name string, st *unix.Stat_t, as string) error {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, b)
	if err != nil {
		return &entryError{&fs.PathError{Op: "readlink", Path: as, Err: err}} // it is no link any more
	}
	h := s.header(st, as, tar.TypeSymlink)
	h.Linkname = string(b[:n])
	return s.out.WriteHeader(h)
}

func (s *sender) dir(f *os.File, st *unix.Stat_t, as string) error {
	if s.depth++; s.depth > maxDepth {
		return fmt.Errorf("directories are more than %d deep", maxDepth)
	}
	defer func() { s.depth-- }()
	before := s.listed
	defer func() { s.listed = before }()
	names, err := s.list(f)
	if err != nil {
		return err
	}
	if err := s.out.WriteHeader(s.header(st, as+"/", tar.TypeDir)); err != nil {
		return err
	}
	for _, name := range names {
		at := as + "/" + name
		err := s.entry(f, name, at, uint64(st.Dev))
		var own *entryError
		switch {
		case errors.As(err, &own) && errors.Is(err, fs.ErrNotExist): // it is gone, as files go
		case own != nil:
			s.o.problem(at, "left out: "+own.err.Error())
		case err != nil:
			return err
		}
	}
	return nil
}

func (e *entryError) Unwrap() error { return e.err }

// list has the names in a directory, each once: unionfs(4) tells those of both its directories.
func (s *sender) list(f *os.File) (list []string, err error) {
	d, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &entryError{err}
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		some, err := d.Readdirnames(4096)
		for _, name := range some {
			if s.entries++; s.entries > maxEntries {
				return nil, fmt.Errorf("there are more than %d files", maxEntries)
			}
			if !s.listed.add(name) {
				return nil, fmt.Errorf("the names of files in nested directories are more than %d bytes", maxNames)
			}
		}
		list = append(list, some...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, &entryError{err}
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

func (s *sender) file(f *os.File, st *unix.Stat_t, as string) error {
	id := file{uint64(st.Dev), uint64(st.Ino)}
	if first := s.seen[id]; first != "" {
		h := s.header(st, as, tar.TypeLink)
		h.Linkname = first
		return s.out.WriteHeader(h)
	}
	in, err := reopen(f)
	if err != nil {
		return &entryError{err}
	}
	defer in.Close()
	if st, err = stat(in); err != nil {
		return &entryError{err}
	}
	if s.bytes += st.Size; st.Size < 0 || s.bytes > s.o.MaxBytes || s.bytes < 0 {
		return fmt.Errorf("the files are more than %d bytes", s.o.MaxBytes)
	}
	h := s.header(st, as, tar.TypeReg)
	h.Size = st.Size
	if err := s.out.WriteHeader(h); err != nil {
		return err
	}
	if st.Nlink > 1 {
		s.remember(id, as)
	}
	return s.content(in, st.Size, as)
}

// remember keeps a file's name for its other links, if there is room.
func (s *sender) remember(id file, as string) {
	if !s.links.add(as) {
		s.o.problem(as, fmt.Sprintf("its other links become files of their own: the names of files with several links "+
			"are more than %d bytes", maxNames))
		return
	}
	s.seen[id] = as
}

// content has as many bytes as were told. What a file lacks by now are zeros.
func (s *sender) content(in *os.File, size int64, as string) error {
	r := &told{ctx: s.ctx, r: in}
	n, err := io.Copy(s.out, io.LimitReader(r, size))
	switch {
	case context.Cause(s.ctx) != nil:
		return context.Cause(s.ctx)
	case err != nil && r.err == nil: // of what is written to
		return err
	case n == size:
		return nil
	}
	why := "it became shorter while it was read: zeros are in place of what it lacks"
	if r.err != nil {
		why = r.err.Error() + ": zeros are in place of the rest"
	}
	s.o.problem(as, why)
	_, err = io.CopyN(s.out, &told{ctx: s.ctx, r: zeros{}}, size-n)
	return err
}

// told remembers an error of what is read, and ends with the context.
type told struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (t *told) Read(p []byte) (int, error) {
	if err := context.Cause(t.ctx); err != nil {
		return 0, err
	}
	n, err := t.r.Read(p)
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
