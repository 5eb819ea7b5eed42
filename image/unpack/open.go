package unpack

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
)

// OpenLayer gives a layer as an uncompressed tar. Reading ends with an error where it
// goes over the limit for a layer.
func OpenLayer(ctx context.Context, from Source, d ocispec.Descriptor) (io.ReadCloser, error) {
	open, err := blob.Decompressor(d.MediaType)
	if err != nil {
		return nil, err
	}
	f, err := from.OpenBlob(d.Digest)
	if err != nil {
		return nil, err
	}
	z, err := open(blob.WithContext(ctx, f))
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

func (o *openLayer) Close() error { return errors.Join(o.z.Close(), o.f.Close()) }
