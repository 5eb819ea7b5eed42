package layout

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
	"strings"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/internal/regular"
)

// member is a file or a link of an archive, or of a directory. What else there is
// in one is no concern of an image's.
type member struct {
	name string // without "." and ".." in it, and no slash in front
	size int64
	link string // where a link leads, as name; empty where it is a file
	r    io.Reader
}

// members are all that an archive or a directory has. Each call goes through them
// from the beginning, and ends with the first error.
type members interface {
	each(ctx context.Context, visit func(member) error) error
}

// archived are the members of a tar, also in gzip, bzip2, zstd or xz.
type archived struct {
	in     *Input
	limits image.Limits
	tell   func(image.Progress)
}

func (a archived) each(ctx context.Context, visit func(member) error) error {
	read := image.Progress{Size: a.in.info.Size()}
	file := io.NewSectionReader(a.in.file, 0, read.Size)
	br := blob.Buffered(blob.Count(blob.WithContext(ctx, file), func(n int) {
		if read.Done += int64(n); a.tell != nil {
			a.tell(read)
		}
	}))
	release, err := blob.Reserve(ctx, br, 0)
	if err != nil {
		return err
	}
	defer release()
	z, err := blob.Decompress(br)
	if err != nil {
		return err
	}
	defer z.Close()
	tr := tar.NewReader(blob.Limit(blob.WithContext(ctx, z), new(int64), a.limits.ImageBytes, "image_size"))
	for n := int64(0); ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("not an archive of an image: it is empty")
		case errors.Is(err, tar.ErrHeader) && n == 0, errors.Is(err, io.ErrUnexpectedEOF) && n == 0:
			return errors.New("not an archive of an image: it is not a tar file (plain, or in gzip, bzip2, zstd or xz)")
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the archive is incomplete: %w", err)
		case err != nil:
			return err
		case n >= a.limits.Entries:
			return fmt.Errorf("over the limit of %d entries (limits { entries })", a.limits.Entries)
		}
		if err := visitEntry(h, tr, visit); err != nil {
			return err
		}
	}
}

func visitEntry(h *tar.Header, r io.Reader, visit func(member) error) error {
	m := member{name: cleanMember(h.Name), size: h.Size, r: r}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeLink:
		m.link = inArchive(h.Linkname)
	case tar.TypeSymlink:
		m.link = inArchive(besideLink(m.name, h.Linkname))
	default:
		return nil
	}
	if err := visit(m); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

func cleanMember(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// besideLink is what a symbolic link says, seen from the archive's root.
func besideLink(name, target string) string {
	if path.IsAbs(target) {
		return target
	}
	return path.Join(path.Dir(name), target)
}

// outside is where links lead that leave the archive: no member has such a name.
const outside = ".."

func inArchive(target string) string {
	if target = path.Clean(target); path.IsAbs(target) || target == ".." || strings.HasPrefix(target, "../") {
		return outside
	}
	return target
}

// directory are the members of a directory. Nothing is opened outside of it.
type directory struct {
	root   *os.Root
	limits image.Limits
}

// maxMemberDepth is that of blobs/sha256/HEX below a folder.
const maxMemberDepth = 4

func (d directory) each(ctx context.Context, visit func(member) error) error {
	left := d.limits.Entries
	return d.list(ctx, ".", maxMemberDepth, &left, visit)
}

func (d directory) list(ctx context.Context, dir string, depth int, left *int64, visit func(member) error) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if *left--; *left < 0 {
			return fmt.Errorf("over the limit of %d entries (limits { entries })", d.limits.Entries)
		}
		name := path.Join(dir, e.Name())
		if err := d.entry(ctx, name, e, depth, left, visit); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (d directory) entry(ctx context.Context, name string, e fs.DirEntry, depth int, left *int64,
	visit func(member) error) error {
	m := member{name: name}
	switch {
	case e.IsDir() && depth > 1:
		return d.list(ctx, name, depth-1, left, visit)
	case e.Type() == fs.ModeSymlink:
		to, err := d.root.Readlink(name)
		if err != nil {
			return err
		}
		m.link = inArchive(besideLink(name, to))
		return visit(m)
	case !e.Type().IsRegular():
		return nil
	}
	f, fi, err := regular.OpenIn(d.root, name)
	if err != nil {
		return err
	}
	m.size, m.r = fi.Size(), blob.WithContext(ctx, f)
	if err = visit(m); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return errors.Join(err, f.Close())
}
