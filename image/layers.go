package image

import (
	"context"
	"errors"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/remove"
)

// OpenLayer gives a layer as an uncompressed tar. Reading ends with
// an error where it goes over the limit for a layer.
func (l *Layout) OpenLayer(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	open, err := decompressorFor(d.MediaType)
	if err != nil {
		return nil, err
	}
	f, err := l.openBlob(d.Digest)
	if err != nil {
		return nil, err
	}
	z, err := open(ctxReader{ctx, f})
	if err != nil {
		return nil, errors.Join(cutOff(err), f.Close())
	}
	used := new(int64)
	return &openLayer{&bounded{r: ctxReader{ctx, z}, used: used, limit: l.limits.LayerBytes, what: "layer_size"}, z, f}, nil
}

type openLayer struct {
	io.Reader
	z, f io.Closer
}

func (o *openLayer) Close() error { return errors.Join(o.z.Close(), o.f.Close()) }

// Decompress finds out by its first bytes whether a stream is gzip, zstd or xz,
// and gives what it holds; anything else is given as it is.
func Decompress(r io.Reader) (io.ReadCloser, error) { return decompress(r) }

// RemoveTree removes a directory with all that is in it, also where file flags
// forbid it. None there is no error.
func RemoveTree(dir string) error { return remove.Tree(dir) }

// removeAll is for a name in an opened directory.
func removeAll(root *os.Root, name string) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(remove.At(dir, name), dir.Close())
}
