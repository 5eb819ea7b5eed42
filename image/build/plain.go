package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/durable"
)

// plainSize is from how many bytes on a compressed layer is kept without its compression. Most of the time that a
// build takes on a base it would decompress that otherwise, twice where a RUN follows a COPY.
const plainSize = 1 << 20

// errOther is that a layer is not what the image's config says. Unpacking tells that.
var errOther = errors.New("the layer has another content")

// plain gives a layer as the cache has its tar, which is kept there first where it pays.
func (b *work) plain(ctx context.Context, i int) (ocispec.Descriptor, error) {
	l, diffs := b.layers[i], b.config.RootFS.DiffIDs
	if b.cache == nil || l.Size < plainSize || len(diffs) <= i || diffs[i] == l.Digest || diffs[i].Validate() != nil {
		return l, nil
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffs[i]}
	key := keyOf("plain", l.Digest, d.Digest)
	var r imageRecord
	if b.cache.record("plain", key, &r) && len(r.Blobs) == 1 && r.Blobs[0].Digest == d.Digest &&
		b.cache.has(r.Blobs[0]) {
		return r.Blobs[0], nil
	}
	b.progress("decompressing layer %d of %d", i+1, len(b.layers))
	err := durable.Replace(b.cache.blob(d.Digest), 0o600, func(w io.Writer) (err error) {
		d.Size, err = b.decompress(ctx, l, d.Digest, w, b.meter(fmt.Sprintf("decompressing layer %d", i+1), 0))
		return err
	})
	if errors.Is(err, errOther) {
		return l, nil
	}
	if err == nil {
		err = b.cache.keepRecord("plain", key, imageRecord{[]ocispec.Descriptor{d}})
	}
	if err != nil {
		return l, fmt.Errorf("layer %d: %w", i+1, err)
	}
	return d, nil
}

// decompress writes a layer's tar, and gives its size.
func (b *work) decompress(ctx context.Context, l ocispec.Descriptor, want digest.Digest, w io.Writer,
	count func(int)) (n int64, err error) {
	r, err := unpack.OpenLayer(ctx, b.store, l)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum := want.Algorithm().Digester()
	n, err = blob.Copy(io.MultiWriter(w, sum.Hash()), blob.Count(r, count))
	if err == nil && sum.Digest() != want {
		err = errOther
	}
	return n, err
}

// apply unpacks the layers from the index first on into a tree that has those before.
func (b *work) apply(ctx context.Context, dir string, first int) error {
	img := &image.Image{Config: b.config, Layers: slices.Clone(b.layers)}
	for i := first; i < len(img.Layers); i++ {
		var err error
		if img.Layers[i], err = b.plain(ctx, i); err != nil {
			return err
		}
	}
	return unpack.New(cachedLayers{b.store, b.cache}, img, b.told("unpacking the image so far")).Apply(ctx, dir, first,
		len(img.Layers))
}

// cachedLayers are a store's, and those that the cache has without their compression.
type cachedLayers struct {
	*layout.Store
	cache *cache
}

func (c cachedLayers) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	if c.cache != nil && d.MediaType == ocispec.MediaTypeImageLayer && c.cache.has(d) {
		f, err := c.cache.openBlob(d.Digest)
		if err != nil {
			return nil, 0, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, offset, nil
	}
	return c.Store.Open(ctx, d, offset)
}

// openLayer gives a layer as a tar: one of the cache's is a file, in which a reader of tar leaves out what it is not
// asked for.
func (b *work) openLayer(ctx context.Context, i int) (io.ReadCloser, error) {
	d, err := b.plain(ctx, i)
	if err != nil {
		return nil, err
	}
	if d.Digest != b.layers[i].Digest {
		return b.cache.openBlob(d.Digest)
	}
	return unpack.OpenLayer(ctx, b.store, d)
}
