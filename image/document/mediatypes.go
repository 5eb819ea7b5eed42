package document

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's names for what OCI calls a manifest, an index, a config and a layer.
const (
	DockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList      = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig    = "application/vnd.docker.container.image.v1+json"
	DockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// CosignPayload is the type of a signed statement in cosign's format.
const CosignPayload = "application/vnd.dev.cosign.simplesigning.v1+json"

// IsImage knows the types of image manifests.
func IsImage(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}

// IsIndex knows the types of indexes.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerList
}

// IsManifest knows the types of both.
func IsManifest(mediaType string) bool { return IsImage(mediaType) || IsIndex(mediaType) }

// IsConfig knows the types of images' configs.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == DockerConfig
}

// Compression is how a layer is compressed.
type Compression string

// The compressions of layers.
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// LayerCompression knows the layer types of OCI and of Docker's manifests.
func LayerCompression(mediaType string) (Compression, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, DockerLayer:
		return None, nil
	case ocispec.MediaTypeImageLayerGzip, DockerLayerGzip:
		return Gzip, nil
	case ocispec.MediaTypeImageLayerZstd:
		return Zstd, nil
	}
	return "", fmt.Errorf("unknown layer type %q: want tar, tar+gzip or tar+zstd", mediaType)
}
