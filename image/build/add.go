package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/unpack"
)

// archive unpacks a tar, also in gzip, zstd or xz, into the destination. It is
// false where the file is no archive. Entries keep their order, their owners'
// numbers, modes and times before the build's; --chown and --chmod replace
// those.
func (c *copier) archive(src string) (done bool, err error) {
	f, err := c.b.openHashed(c.ctx, src)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := blob.Decompress(f)
	if err != nil {
		return false, nil // such a file can begin like a compressed one and be copied
	}
	defer z.Close()
	tr := tar.NewReader(&limited{r: readerOf(c.ctx, z), left: 2 * maxLayer})
	h, err := tr.Next()
	if err != nil { // not even one entry
		return false, nil
	}
	if err := c.flush(); err != nil {
		return true, err
	}
	err = c.unpack(tr, h)
	if err == nil {
		if _, err = io.Copy(io.Discard, f); err == nil { // what follows the archive's end
			err = f.verified()
		}
	}
	if err != nil {
		return true, fmt.Errorf("archive %s: %w", src, err)
	}
	return true, nil
}

// limited ends what is decompressed without being in a layer.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("it unpacks to more than %d bytes", int64(2*maxLayer))
	}
	return n, err
}

func (c *copier) unpack(tr *tar.Reader, h *tar.Header) (err error) {
	dest, err := c.dir(c.step.dest)
	if err != nil {
		return err
	}
	for err == nil {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.unpackEntry(h, tr, dest); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
		h, err = tr.Next()
	}
	if errors.Is(err, io.EOF) {
		return c.flush()
	}
	return err
}

func (c *copier) unpackEntry(h *tar.Header, r io.Reader, dest string) error {
	e, err := unpack.ReadEntry(h, false)
	if err != nil || e.Kind != unpack.Makes {
		return err // the destination keeps its own mode and owner
	}
	at, err := c.dir(path.Join(dest, e.Dir))
	if err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	at = path.Join(at, e.Base)
	if err := checkName(at); err != nil {
		return err
	}
	return c.unpackAt(h, r, at, dest)
}

func (c *copier) unpackAt(h *tar.Header, r io.Reader, at, dest string) error {
	out := tar.Header{Name: at, Typeflag: h.Typeflag, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime,
		Linkname: h.Linkname}
	if flags := h.PAXRecords[flagsRecord]; flags != "" {
		out.PAXRecords = map[string]string{flagsRecord: flags}
	}
	c.override(&out)
	old := c.view.get(at)
	if old != nil && old.kind == tar.TypeDir && h.Typeflag != tar.TypeDir {
		return errors.New("is a directory in the image")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		real, n, missing, err := c.view.walk(at, true)
		if err == nil && old != nil && (len(missing) > 0 || n.kind != tar.TypeDir) {
			err = errors.New("is a file or a link in the image")
		}
		if err != nil {
			return err
		}
		if old != nil { // through a link to a directory
			out.Name = real
		}
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		out.Typeflag, out.Size = tar.TypeReg, h.Size
	case tar.TypeSymlink:
	case tar.TypeLink:
		target, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		real, _, missing, err := c.view.walk(path.Join(dest, target), false)
		if err != nil || len(missing) > 0 {
			return errors.Join(fmt.Errorf("the hard link's target %q does not exist", h.Linkname), err)
		}
		out.Linkname = real
	}
	return c.w.keep(out, r)
}

// override puts the instruction's options in the place of the archive's.
func (c *copier) override(h *tar.Header) {
	if c.step.chown != "" {
		h.Uid, h.Gid = c.uid, c.gid
	}
	if c.step.mode != nil && h.Typeflag != tar.TypeSymlink {
		h.Mode = *c.step.mode
		if h.Typeflag == tar.TypeDir {
			h.Mode |= h.Mode & 0o444 >> 2
		}
	}
}

// inside is an entry's path from where the archive is unpacked.
func inside(name string) (string, error) {
	if strings.Contains(name, "\x00") || strings.Contains("/"+name+"/", "/../") {
		return "", fmt.Errorf("%q leads out of the destination", name)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}
