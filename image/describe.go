package image

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

// Describe reads an image of which only the OCI manifest and the config are
// here, and verifies them: the manifest by the digest, the config by the
// manifest.
func Describe(name string, d digest.Digest, manifest, config []byte) (*Image, error) {
	if err := document.CheckDigest(d); err != nil {
		return nil, err
	}
	img, _, err := Read(func(want ocispec.Descriptor) ([]byte, error) {
		b := manifest
		if want.Digest != d {
			b = config
		}
		if got := digest.FromBytes(b); got != want.Digest {
			return nil, fmt.Errorf("blob %s: digest mismatch: its content has %s", want.Digest, got)
		}
		return b, nil
	}, ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, err
	}
	img.Name = name
	return img, nil
}

// Read reads what an image says of itself by its manifest's descriptor. get gives
// a manifest or a config, verified.
func Read(get func(ocispec.Descriptor) ([]byte, error), d ocispec.Descriptor) (*Image, ocispec.Manifest, error) {
	var m ocispec.Manifest
	manifest, err := get(d)
	if err == nil {
		m, err = document.ReadManifest(manifest, d.MediaType)
	}
	if err != nil {
		return nil, m, fmt.Errorf("image manifest: %w", err)
	}
	if !document.IsConfig(m.Config.MediaType) {
		return nil, m, fmt.Errorf("image manifest: the config's type %q is not that of an image", m.Config.MediaType)
	}
	if size := int64(len(manifest)) + m.Config.Size; size > document.MaxDescription {
		return nil, m, fmt.Errorf("the image's manifest and config have %d bytes together: at most %d are allowed",
			size, document.MaxDescription)
	}
	var c ocispec.Image
	config, err := get(m.Config)
	if err == nil && int64(len(config)) != m.Config.Size {
		err = fmt.Errorf("it has %d bytes, its descriptor says %d", len(config), m.Config.Size)
	}
	if err == nil {
		c, err = document.ReadConfig(config, m.Config.MediaType)
	}
	if err != nil {
		return nil, m, fmt.Errorf("image config: %w", err)
	}
	img, err := newImage(c, m.Layers)
	if err != nil {
		return nil, m, err
	}
	img.Digest, img.Docker = d.Digest, readDocker(config)
	return img, m, nil
}

// newImage checks that a config and its layers belong together and can be used.
func newImage(c ocispec.Image, layers []ocispec.Descriptor) (*Image, error) {
	img := &Image{Config: c, Layers: layers, Manifest: &Manifest{SchemaVersion: 1}}
	diffs := c.RootFS.DiffIDs
	if len(layers) > document.MaxLayers {
		return nil, fmt.Errorf("the image has %d layers: at most %d are allowed", len(layers), document.MaxLayers)
	}
	if len(diffs) != len(layers) {
		return nil, fmt.Errorf("the image has %d layers, its config names %d", len(layers), len(diffs))
	}
	for i, l := range layers {
		err := document.CheckLayer(l.MediaType)
		if err == nil {
			err = document.CheckDigest(l.Digest)
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		img.Size += l.Size
	}
	var err error
	if img.Chains, err = chainIDs(diffs); err != nil {
		return nil, err
	}
	img.ChainID = img.Chains[len(img.Chains)-1]
	if c.Created != nil {
		img.Created = *c.Created
	}
	if text, ok := c.Config.Labels[ManifestLabel]; ok {
		if img.Manifest, err = ParseManifest([]byte(text)); err != nil {
			return nil, err
		}
	} else {
		img.Manifest.Ports, _ = Exposed(c.Config.ExposedPorts) // freejail-build validate names the others
	}
	for i := range img.Manifest.Ports {
		if img.Manifest.Ports[i].Protocol == "" {
			img.Manifest.Ports[i].Protocol = "tcp"
		}
	}
	return img, nil
}

// chainIDs are the OCI image specification's names for the first layer, the
// first two layers and so on, applied in order. Without layers there is one.
func chainIDs(diffs []digest.Digest) ([]digest.Digest, error) {
	for i, d := range diffs {
		if err := document.CheckDigest(d); err != nil {
			return nil, fmt.Errorf("rootfs.diff_ids[%d]: %w", i, err)
		}
	}
	if len(diffs) == 0 {
		return []digest.Digest{digest.FromString("")}, nil
	}
	return identity.ChainIDs(slices.Clone(diffs)), nil
}

// Fits is an error where an image is for none of the wanted platforms.
func (img *Image) Fits(wanted []ocispec.Platform) error {
	if p := img.Config.Platform; p.OS != "" && !fitsAny(&p, wanted) {
		return fmt.Errorf("the image is for %s, wanted is %s", PlatformText(&p), platformsText(wanted))
	}
	return nil
}

// Check tells whether an image is for one of the wanted platforms, and whether its
// layers, as they are stored, are within a limit.
func (img *Image) Check(wanted []ocispec.Platform, l Limits) error {
	if err := img.Fits(wanted); err != nil {
		return err
	}
	var total int64
	for i, layer := range img.Layers {
		if total += layer.Size; layer.Size < 0 || total < 0 || total > l.ImageBytes {
			return fmt.Errorf("layer %d: the image is over the limit of %d bytes (limits { image_size })",
				i+1, l.ImageBytes)
		}
	}
	return nil
}
