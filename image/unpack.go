package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// Unpack applies an image's layers in order to an existing, empty directory.
// Nothing outside of it is touched, whatever the layers say; every layer's
// digest and DiffID are verified; device nodes and FIFOs are refused. Owners are set where
// the process runs as root; without that, setuid and setgid bits are dropped.
// Extended attributes are not unpacked. On error the directory may hold a part.
// Progress, which may be nil, is told from another goroutine how much of the
// layers was read.
func (l *Layout) Unpack(ctx context.Context, img *Image, dir string, progress func(Progress)) error {
	if err := checkEmpty(dir); err != nil {
		return err
	}
	return l.UnpackFrom(ctx, img, 0, dir, progress)
}

// UnpackFrom is Unpack for a directory that has an image's first layers
// already, as a build has: it applies those from index first on.
func (l *Layout) UnpackFrom(ctx context.Context, img *Image, first int, dir string, progress func(Progress)) error {
	return l.Unpacking(img, progress).Apply(ctx, dir, first, len(img.Layers))
}

// Unpacking is an image's unpacking in several steps, which share its limits.
type Unpacking struct {
	l        *Layout
	img      *Image
	left     Limits
	progress func(Progress)
}

// Unpacking begins with nothing unpacked; see Unpack for progress.
func (l *Layout) Unpacking(img *Image, progress func(Progress)) *Unpacking {
	return &Unpacking{l, img, Limits{LayerBytes: l.limits.LayerBytes, ImageBytes: l.limits.ImageBytes, Entries: l.limits.Entries}, progress}
}

// Apply is Unpack for the layers from the index first to before the index end,
// in a directory that has those before.
func (u *Unpacking) Apply(ctx context.Context, dir string, first, end int) error {
	img := u.img
	if len(img.Config.RootFS.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("the image has %d layers, its config names %d", len(img.Layers), len(img.Config.RootFS.DiffIDs))
	}
	p := Progress{Layers: end - first}
	for _, d := range img.Layers[first:end] {
		p.Size += d.Size
	}
	read := func(n int) {
		if p.Done += int64(n); u.progress != nil {
			u.progress(p)
		}
	}
	for i := first; i < end; i++ {
		if err := u.l.unpackLayer(ctx, img, i, dir, &u.left, read); err != nil {
			return fmt.Errorf("layer %d (%.19s): %w", i+1, img.Layers[i].Digest, full(err))
		}
		p.LayersDone++
	}
	return nil
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// A file system of its own may show these in its root.
		if e.Name() != ".zfs" && e.Name() != ".snap" {
			return fmt.Errorf("%s is not empty: unpack into an empty directory", dir)
		}
	}
	return nil
}

func (l *Layout) unpackLayer(ctx context.Context, img *Image, i int, dir string, left *Limits, read func(n int)) (err error) {
	d := img.Layers[i]
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	open, err := decompressorFor(d.MediaType)
	if err != nil {
		return err
	}
	f, err := l.openBlob(d.Digest)
	if err != nil {
		return fmt.Errorf("import the image again: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob := newPump(heard{ctxReader{ctx, f}, read})
	defer blob.stop()
	br := buffered(blob)
	release, err := reserve(ctx, br, unpackMemory)
	if err != nil {
		return cutOff(err)
	}
	defer release()
	z, err := open(br)
	if err != nil {
		return cutOff(err)
	}
	defer z.Close()
	if err := applyVerified(ctxReader{ctx, z}, dir, img.Config.RootFS.DiffIDs[i], left); err != nil {
		return err
	}
	got, size, err := blob.digest()
	if err == nil && (got != d.Digest || size != d.Size) {
		err = fmt.Errorf("the blob has %d bytes and the digest %s, its descriptor says %d and %s: import the image again", size, got, d.Size, d.Digest)
	}
	return err
}

// budget is what one layer may unpack to, and what it has.
type budget struct {
	maxBytes, maxEntries   int64
	stream, files, entries int64
}

const limitNames = "layer_size, image_size"

func (b *budget) addFile(size int64) error {
	// Sparse files are larger than what the stream has of them.
	if size < 0 || size > b.maxBytes-b.files {
		return fmt.Errorf("with it the files unpack to more than the limit of %d bytes (limits { %s })", b.maxBytes, limitNames)
	}
	b.files += size
	return nil
}

func (b *budget) addEntry() error {
	if b.entries++; b.entries > b.maxEntries {
		return fmt.Errorf("there are more than the limit of %d entries (limits { entries })", b.maxEntries)
	}
	return nil
}

// applyVerified applies an uncompressed layer and takes what it has used off
// the image's limits.
func applyVerified(r io.Reader, dir string, want digest.Digest, left *Limits) error {
	b := &budget{maxBytes: min(left.LayerBytes, left.ImageBytes), maxEntries: left.Entries}
	p := newPump(&bounded{r: r, used: &b.stream, limit: b.maxBytes, what: limitNames})
	defer p.stop()
	if err := applyTar(p, dir, b, true); err != nil {
		return cutOff(err)
	}
	got, _, err := p.digest()
	if err != nil {
		return cutOff(err)
	}
	if got != want {
		return fmt.Errorf("its content has the digest %s, the config says %s", got, want)
	}
	left.ImageBytes -= max(b.stream, b.files)
	left.Entries -= b.entries
	return nil
}

func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut off: %w", err)
	}
	return err
}

// ExtractTar extracts a plain archive (tar, also in gzip, zstd or xz) into a
// directory with the same care as Unpack, but without whiteouts: names that
// begin with .wh. are ordinary here.
func ExtractTar(ctx context.Context, r io.Reader, dir string, l Limits) error {
	z, err := decompress(ctxReader{ctx, r})
	if err != nil {
		return cutOff(err)
	}
	defer z.Close()
	l = l.withDefaults()
	b := &budget{maxBytes: min(l.LayerBytes, l.ImageBytes), maxEntries: l.Entries}
	return cutOff(full(applyTar(&bounded{r: ctxReader{ctx, z}, used: &b.stream, limit: b.maxBytes, what: limitNames}, dir, b, false)))
}
