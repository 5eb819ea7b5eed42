package document

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's names for what OCI calls a manifest, an index, a config and a layer.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	DockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// Approval is the type of a manifest that attaches a signed approval to an image, and of the
// approval in it.
const Approval = "application/vnd.freejail.approval.v1+json"

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

// CheckType refuses what is not a type of either.
func CheckType(mediaType string) error {
	switch {
	case IsManifest(mediaType):
		return nil
	case strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+"):
		return errSchema1
	}
	return fmt.Errorf("%.100q is neither an image manifest nor an index", mediaType)
}

var errSchema1 = errors.New("a manifest of Docker's schema 1, which is not supported: " +
	"push the image again with a current docker, podman or skopeo")

// IsConfig knows the types of images' configs.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == DockerConfig
}

// nondistributable is OCI's former type of layers that registries need not have.
const nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// CheckLayer refuses what is not a type of layers, OCI's or Docker's. How a layer
// is compressed is told by its bytes alone: tools write types that are wrong.
func CheckLayer(mediaType string) error {
	base, _, _ := strings.Cut(mediaType, "+")
	for _, suffix := range []string{".gzip", ".zstd"} {
		base = strings.TrimSuffix(base, suffix)
	}
	switch base {
	case ocispec.MediaTypeImageLayer, nondistributable:
		if slices.Contains([]string{base, base + "+gzip", base + "+zstd"}, mediaType) {
			return nil
		}
	case DockerLayer, DockerForeign:
		if slices.Contains([]string{base, base + ".gzip", base + ".zstd"}, mediaType) {
			return nil
		}
	}
	return fmt.Errorf("unknown layer type %q: want tar, tar+gzip or tar+zstd", mediaType)
}

// IsForeign knows the types of layers that a registry need not have.
func IsForeign(mediaType string) bool {
	return strings.HasPrefix(mediaType, nondistributable) || strings.HasPrefix(mediaType, DockerForeign)
}
