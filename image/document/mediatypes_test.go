package document

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLayerCompression(t *testing.T) {
	for mediaType, want := range map[string]Compression{
		ocispec.MediaTypeImageLayer: None, DockerLayer: None, ocispec.MediaTypeImageLayerGzip: Gzip,
		DockerLayerGzip:                 Gzip,
		ocispec.MediaTypeImageLayerZstd: Zstd, ocispec.MediaTypeImageManifest: "", "": "",
	} {
		if got, err := LayerCompression(mediaType); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is compressed by %q, %v; want %q", mediaType, got, err, want)
		}
	}
}
