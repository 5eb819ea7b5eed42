package build

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/chunked"
)

// How layers are compressed.
const (
	CompressionGzip    = "gzip"
	CompressionZstd    = "zstd"
	CompressionChunked = "zstd:chunked" // hosts fetch what differs from layers that they have
)

// Compressions are all there are, the default first.
var Compressions = []string{CompressionGzip, CompressionZstd, CompressionChunked}

// CheckCompression refuses what is none of Compressions.
func CheckCompression(how string) error {
	if slices.Contains(Compressions, how) {
		return nil
	}
	last := len(Compressions) - 1
	return fmt.Errorf("compression %q: expected %s or %s", how, strings.Join(Compressions[:last], ", "),
		Compressions[last])
}

// check refuses options by which nothing can be made.
func (o Options) check() error {
	if o.Output == "" && o.Store == nil {
		return errNowhere
	}
	if o.Compression != "" {
		return CheckCompression(o.Compression)
	}
	return nil
}

// gzipLevel is part of what makes equal input give an equal digest, as is the
// version of the compressor in go.mod.
const gzipLevel = 6

// layerType is the media type of the layers that are made.
func (o Options) layerType() string {
	switch o.Compression {
	case CompressionZstd, CompressionChunked:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// keyOfLayer is keyOf for what is made of a layer, which is another in another compression.
func (o Options) keyOfLayer(v ...any) string {
	if o.layerType() != ocispec.MediaTypeImageLayerGzip { // whose keys have never told it
		v = append(v, o.Compression)
	}
	return keyOf(v...)
}

// compressor compresses a layer. What annotations gives after Close is of its descriptor.
func (o Options) compressor(w io.Writer) (z io.WriteCloser, annotations func() map[string]string, err error) {
	none := func() map[string]string { return nil }
	switch o.Compression {
	case CompressionZstd: // by one goroutine: else the bytes may depend on how many there are
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
		return z, none, err
	case CompressionChunked:
		z, err := chunked.NewWriter(w)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Annotations, nil
	}
	z, err = gzip.NewWriterLevel(w, gzipLevel)
	return z, none, err
}
