package unpack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
)

// memory is what one unpacking takes at most, in bytes: buffers, and what is
// remembered of its directories.
const memory = 128 << 20

// Source has the blobs of images, which are not verified.
type Source interface {
	// Open reads a layer from an offset on.
	Open(ctx context.Context, d ocispec.Descriptor, offset int64) (r io.ReadCloser, at int64, err error)
	Limits() image.Limits
}

// Arriving is a Source of layers that are on their way. They are unpacked in memory of their own, or not at all where
// that is too little: blob.ErrNoMemory.
type Arriving interface {
	Source
	// Whole waits until a layer is here, and is what its digest says.
	Whole(ctx context.Context, d digest.Digest) error
}

// Image applies an image's layers in order to an existing, empty directory.
// Nothing outside of it is touched, whatever the layers say; every layer's DiffID, the digest of all that it unpacks
// to, is verified, and its size; no device node is made (see ReadEntry). Owners are set where the process runs as root;
// without that, setuid and setgid bits are dropped. Extended attributes are not unpacked. On error the directory may
// hold a part. Progress, which may be nil, is told from another goroutine how much of the layers was read.
func Image(ctx context.Context, from Source, img *image.Image, dir string, progress func(image.Progress)) error {
	if err := checkEmpty(dir); err != nil {
		return err
	}
	return New(from, img, progress).Apply(ctx, dir, 0, len(img.Layers))
}

// Layers are an image's layers, to be applied in several steps that share its limits.
type Layers struct {
	from     Source
	img      *image.Image
	left     image.Limits
	progress func(image.Progress)
}

// New begins with nothing applied; see Image for progress.
func New(from Source, img *image.Image, progress func(image.Progress)) *Layers {
	return &Layers{from, img, from.Limits(), progress}
}

// Apply is Image for the layers from the index first to before the index end,
// in a directory that has those before.
func (u *Layers) Apply(ctx context.Context, dir string, first, end int) error {
	img := u.img
	if len(img.Config.RootFS.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("the image has %d layers, its config names %d",
			len(img.Layers), len(img.Config.RootFS.DiffIDs))
	}
	p := image.Progress{Layers: end - first}
	for _, d := range img.Layers[first:end] {
		p.Size += d.Size
	}
	read := func(n int) {
		if p.Done += int64(n); u.progress != nil {
			u.progress(p)
		}
	}
	for i := first; i < end; i++ {
		if err := u.apply(ctx, i, dir, read); err != nil {
			return fmt.Errorf("layer %d (%.19s): %w", i+1, img.Layers[i].Digest, blob.ExplainNoSpace(err))
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

func (u *Layers) apply(ctx context.Context, i int, dir string, read func(n int)) (err error) {
	d := u.img.Layers[i]
	if err := document.CheckLayer(d.MediaType); err != nil {
		return err
	}
	f, _, err := u.from.Open(ctx, d, 0)
	if err != nil {
		return fmt.Errorf("import the image again: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var arrived atomic.Int64
	pump := newPump(blob.Count(blob.WithContext(ctx, f), func(n int) { arrived.Add(int64(n)); read(n) }), false)
	defer pump.stop()
	br := blob.Buffered(pump)
	release, err := u.reserve(ctx, br)
	if err != nil {
		return blob.CutOff(err)
	}
	defer release()
	z, err := blob.Decompress(br)
	if err != nil {
		return blob.CutOff(err)
	}
	defer z.Close()
	tar := u.bounded(ctx, blob.WithContext(ctx, z), d.Digest, &arrived)
	want := u.img.Config.RootFS.DiffIDs[i]
	// The digest of the blob is compared by who takes it into a store. It says nothing more: another blob may hold the
	// same, but none of another DiffID is unpacked.
	if err := applyVerified(tar, dir, want, &u.left); err != nil {
		return err
	}
	size, err := pump.drain()
	if err == nil && size != d.Size {
		err = fmt.Errorf("the blob has %d bytes, its descriptor says %d: import the image again", size, d.Size)
	}
	return err
}

// What a layer that arrives may unpack to before it is verified, in bytes: a usual one unpacks to less. Nothing but its
// digest, which is known last, shows that a mirror has given an archive bomb instead.
const (
	maxRatio = 10       // to what of it has arrived
	maxMore  = 64 << 20 // beside that
)

// bounded has the rest of a layer that arrives wait until it is verified, where it unpacks to very much.
func (u *Layers) bounded(ctx context.Context, r io.Reader, d digest.Digest, arrived *atomic.Int64) io.Reader {
	from, arrives := u.from.(Arriving)
	if !arrives {
		return r
	}
	return &unverified{r, arrived, 0, func() error { return from.Whole(ctx, d) }}
}

type unverified struct {
	io.Reader
	arrived *atomic.Int64
	given   int64
	whole   func() error // nil once it has told that the layer is right
}

func (u *unverified) Read(b []byte) (int, error) {
	if u.whole == nil {
		return u.Reader.Read(b)
	}
	left := maxRatio*u.arrived.Load() + maxMore - u.given
	if left <= 0 {
		if err := u.whole(); err != nil {
			return 0, err
		}
		u.whole = nil
		return u.Reader.Read(b)
	}
	n, err := u.Reader.Read(b[:min(int64(len(b)), left)])
	u.given += int64(n)
	return n, err
}

func (u *Layers) reserve(ctx context.Context, br *bufio.Reader) (release func(), err error) {
	if _, arrives := u.from.(Arriving); arrives {
		return blob.ReserveEarly(br, memory)
	}
	return blob.Reserve(ctx, br, memory)
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
		return fmt.Errorf("the files unpack to more than the limit of %d bytes (limits { %s })", b.maxBytes, limitNames)
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

// applyVerified is applyTo for what has a digest.
func applyVerified(r io.Reader, dir string, want digest.Digest, left *image.Limits) error {
	p := newPump(r, true)
	defer p.stop()
	err := applyTo(p, dir, left)
	if err != nil {
		return err
	}
	got, err := p.digest()
	if err != nil {
		return blob.CutOff(err)
	}
	if got != want {
		return fmt.Errorf("its content has the digest %s, the config says %s: import the image again, unless it was "+
			"never right", got, want)
	}
	return nil
}

// applyTo applies an uncompressed layer, reads it to its end, and takes what it has used off the image's limits.
func applyTo(r io.Reader, dir string, left *image.Limits) error {
	b := &budget{maxBytes: min(left.LayerBytes, left.ImageBytes), maxEntries: left.Entries}
	r = blob.Limit(r, &b.stream, b.maxBytes, limitNames)
	err := applyTar(r, dir, b, true)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return blob.CutOff(err)
	}
	left.ImageBytes -= max(b.stream, b.files)
	left.Entries -= b.entries
	return nil
}

// Archive extracts a plain archive (tar, also in gzip, zstd or xz) into a
// directory with the same care as Image, but without whiteouts: names that
// begin with .wh. are ordinary here.
func Archive(ctx context.Context, r io.Reader, dir string, l image.Limits) error {
	z, err := blob.Decompress(blob.WithContext(ctx, r))
	if err != nil {
		return blob.CutOff(err)
	}
	defer z.Close()
	l = l.WithDefaults()
	b := &budget{maxBytes: min(l.LayerBytes, l.ImageBytes), maxEntries: l.Entries}
	tar := blob.Limit(blob.WithContext(ctx, z), &b.stream, b.maxBytes, limitNames)
	return blob.CutOff(blob.ExplainNoSpace(applyTar(tar, dir, b, false)))
}

// OpenLayer gives a layer as an uncompressed tar. Reading ends with an error where it
// goes over the limit for a layer.
func OpenLayer(ctx context.Context, from Source, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := document.CheckLayer(d.MediaType); err != nil {
		return nil, err
	}
	f, _, err := from.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	z, err := blob.Decompress(blob.WithContext(ctx, f))
	if err != nil {
		return nil, errors.Join(blob.CutOff(err), f.Close())
	}
	r := blob.Limit(blob.WithContext(ctx, z), new(int64), from.Limits().LayerBytes, "layer_size")
	return &openLayer{r, z, f}, nil
}

type openLayer struct {
	io.Reader
	z, f io.Closer
}

func (o *openLayer) Close() error {
	_ = o.z.Close() // Read has told what is wrong with the stream
	return o.f.Close()
}
