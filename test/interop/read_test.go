package interop

import (
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// each runs a test with images whose layers are compressed in each way that a
// program knows.
func each(t *testing.T, known []string, test func(t *testing.T, layout, archive, root string)) {
	for _, mediaType := range known {
		t.Run(mediaType[len("application/vnd.oci.image.layer.v1."):], func(t *testing.T) {
			layout, archive, root := ours(t, mediaType)
			test(t, layout, archive, root)
		})
	}
}

var (
	all      = []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}
	withGzip = all[:2] // what programs know that are older than zstd in images
)

func TestUmociReadsOurs(t *testing.T) {
	need(t, "umoci")
	each(t, withGzip, func(t *testing.T, layout, _, root string) {
		bundle := filepath.Join(t.TempDir(), "bundle")
		call(t, "umoci", "unpack", "--image", layout+":all:1.0", bundle)
		sameTree(t, "umoci", filepath.Join(bundle, "rootfs"), root)
	})
}

func TestPodmanReadsOurs(t *testing.T) {
	need(t, "podman")
	each(t, all, func(t *testing.T, layout, archive, root string) {
		for _, from := range []string{"oci:" + layout, "oci-archive:" + archive} {
			options := storage(t)
			id := call(t, join("podman", options, "pull", "--quiet", from)...)
			sameTree(t, "podman, "+from, call(t, join("podman", options, "image", "mount", id)...), root)
			call(t, join("podman", options, "image", "unmount", id)...)
		}
	})
}

func TestBuildahReadsOurs(t *testing.T) {
	need(t, "buildah")
	each(t, all, func(t *testing.T, layout, archive, root string) {
		for _, from := range []string{"oci:" + layout, "oci-archive:" + archive} {
			options := storage(t)
			container := call(t, join("buildah", options, "from", "--quiet", from)...)
			sameTree(t, "buildah, "+from, call(t, join("buildah", options, "mount", container)...), root)
			call(t, join("buildah", options, "rm", container)...)
		}
	})
}

// What skopeo has copied is what we have written.
func TestSkopeoCopiesOurs(t *testing.T) {
	need(t, "skopeo")
	each(t, all, func(t *testing.T, layout, archive, root string) {
		for _, from := range []string{"oci:" + layout, "oci-archive:" + archive} {
			dir := t.TempDir()
			copied, packed := filepath.Join(dir, "layout"), filepath.Join(dir, "copy.tar")
			call(t, "skopeo", "copy", "--quiet", "--insecure-policy", from, "oci:"+copied+":copy")
			call(t, "skopeo", "copy", "--quiet", "--insecure-policy", "oci:"+copied+":copy",
				"oci-archive:"+packed+":copy")
			sameTree(t, "skopeo, a layout of "+from, unpacked(t, copied), root)
			sameTree(t, "skopeo, an archive of "+from, unpacked(t, packed), root)
		}
	})
}

func TestSkopeoInspectsOurs(t *testing.T) {
	need(t, "skopeo")
	layout, _, _ := ours(t, ocispec.MediaTypeImageLayerGzip)
	if got := call(t, "skopeo", "inspect", "--format",
		"{{.Os}} {{len .Layers}} {{index .Labels \"org.freejail.manifest\"}}", "oci:"+layout); got == "" {
		t.Error("it says nothing")
	}
}
