package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxLayer bounds what one layer unpacks to: the default limit of hosts.
const maxLayer = 8 << 30

// writer writes one layer and keeps the view in step with it.
type writer struct {
	tw    *tar.Writer
	view  *view // nil: it reads the layer when it is needed
	epoch time.Time
	left  int64
}

// layer packs what fill writes and adds it to the image; fill keeps the view in
// step, if there is one. The bytes depend on nothing but the entries: no names
// of users, no time of packing.
func (b *work) layer(ctx context.Context, v *view, fill func(*writer) error) error {
	if v != nil {
		v.next()
	}
	return b.begunLayer(ctx, v, fill)
}

// begunLayer is layer for a view that has begun with it.
func (b *work) begunLayer(ctx context.Context, v *view, fill func(*writer) error) error {
	pr, pw := io.Pipe()
	sum := sha256.New()
	done := make(chan struct{})
	var annotations map[string]string
	go func() {
		defer close(done)
		var err error
		annotations, err = b.pack(pw, sum, v, fill)
		pw.CloseWithError(err) // never fails: see its documentation
	}()
	d, err := b.store.Add(ctx, b.opts.layerType(), pr)
	pr.CloseWithError(errors.Join(errors.New("the layer cannot be stored"), err))
	<-done
	if err != nil {
		return err
	}
	d.Annotations = annotations
	b.layers = append(b.layers, d)
	b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, digest.NewDigest(digest.SHA256, sum))
	return nil
}

// pack writes a layer, and gives the annotations of its descriptor.
func (b *work) pack(w io.Writer, sum hash.Hash, v *view, fill func(*writer) error) (map[string]string, error) {
	z, annotations, err := b.opts.compressor(w)
	if err != nil {
		return nil, err
	}
	tw := tar.NewWriter(metered{io.MultiWriter(z, sum), b.meter("writing a layer", 0)})
	if err := fill(&writer{tw: tw, view: v, epoch: b.epoch, left: maxLayer}); err != nil {
		_ = z.Close() // what is compressed by several goroutines ends
		return nil, err
	}
	if err := errors.Join(tw.Close(), z.Close()); err != nil {
		return nil, err
	}
	return annotations(), nil
}

// clamp keeps a time that is before the build's.
func (w *writer) clamp(t time.Time) time.Time {
	if t = t.Truncate(time.Second); t.Before(w.epoch) {
		return t
	}
	return w.epoch
}

// entry is write for a name that is no whiteout.
func (w *writer) entry(h tar.Header, r io.Reader) error {
	if err := checkName(h.Name); err != nil {
		return err
	}
	return w.write(h, r)
}

// write writes one entry, of which the header has name, type, mode, owner, link
// and the time that it should have; r is the content of a file.
func (w *writer) write(h tar.Header, r io.Reader) error {
	if w.left -= h.Size; w.left < 0 {
		return fmt.Errorf("/%s: the layer is over the limit of %d bytes", h.Name, int64(maxLayer))
	}
	if w.view != nil {
		w.view.entry++
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	h.ModTime = w.clamp(h.ModTime)
	if err := w.tw.WriteHeader(&h); err != nil {
		return fmt.Errorf("/%s: %w", h.Name, err)
	}
	if h.Size == 0 {
		return nil
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w.tw}, io.LimitReader(r, h.Size), make([]byte, 1<<18))
	if err == nil && n != h.Size {
		err = errors.New("it became shorter while it was read")
	}
	if err != nil {
		return fmt.Errorf("/%s: %w", h.Name, err)
	}
	return nil
}

// newDir writes a directory that no instruction says more about.
func (w *writer) newDir(at string, n *node) error {
	n.from = w.view.following()
	return w.entry(tar.Header{Name: at, Typeflag: tar.TypeDir, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: w.epoch},
		nil)
}

// whiteoutPrefix begins a name that tells of a deleted file.
const whiteoutPrefix = ".wh."

// checkName refuses what has a meaning of its own in a layer. Only diffs write
// whiteouts.
func checkName(name string) error {
	if strings.HasPrefix(name, whiteoutPrefix) || strings.Contains(name, "/"+whiteoutPrefix) {
		return fmt.Errorf("/%s: a name that begins with %s cannot be in an image: there it means a deleted file", name,
			whiteoutPrefix)
	}
	if strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q has a NUL in it", name)
	}
	return nil
}

// dirStep is WORKDIR: the directory is there afterwards.
type dirStep struct{ dir string }

func (s *dirStep) key(context.Context, *work) (any, error) { return struct{ Dir string }{s.dir}, nil }

func (s *dirStep) run(ctx context.Context, b *work) error {
	v, err := b.files(ctx)
	if err != nil {
		return err
	}
	_, n, missing, err := v.walk(s.dir, true)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		if n.kind != tar.TypeDir {
			return fmt.Errorf("%s: %w in the image", s.dir, errNotDir)
		}
		return nil
	}
	return b.layer(ctx, v, func(w *writer) error {
		_, err := v.dir(s.dir, w.newDir)
		return err
	})
}
