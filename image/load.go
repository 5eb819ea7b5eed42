package image

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

func (l *Layout) manifestOf(d ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	b, err := l.smallBlob(d)
	if err == nil {
		m, err = document.ReadManifest(b, d.MediaType)
	}
	if err != nil {
		return m, fmt.Errorf("image manifest %s: %w", d.Digest, err)
	}
	return m, nil
}

func (l *Layout) smallBlob(d ocispec.Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	b, err := readSmall(l.root, blobName(d.Digest), document.MaxBytes)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s has another content: its digest is %s", d.Digest, got)
	}
	return b, nil
}

// load reads an image's manifest and config.
func (l *Layout) load(d ocispec.Descriptor) (*Image, error) {
	m, err := l.manifestOf(d)
	if err != nil {
		return nil, err
	}
	b, err := l.smallBlob(m.Config)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := checkDescription(d.Size + int64(len(b))); err != nil {
		return nil, err
	}
	c, err := document.ReadConfig(b, m.Config.MediaType)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	img, err := describe(c, m.Layers)
	if err != nil {
		return nil, err
	}
	img.Name, img.Digest, img.Pulled, img.Private = d.Annotations[refName], d.Digest, d.Annotations[pulledMark] != "", private(d)
	return img, nil
}

// checkDescription takes the bytes of an image's manifest and config.
func checkDescription(size int64) error {
	if size > document.MaxDescription {
		return fmt.Errorf("the image's manifest and config have %d bytes together: %d are the most", size, document.MaxDescription)
	}
	return nil
}

// describe checks that a config and its layers belong together and can be used.
func describe(c ocispec.Image, layers []ocispec.Descriptor) (*Image, error) {
	img := &Image{Config: c, Layers: layers, Manifest: &Manifest{SchemaVersion: 1}}
	diffs := c.RootFS.DiffIDs
	if len(layers) > document.MaxLayers {
		return nil, fmt.Errorf("the image has %d layers: %d are the most", len(layers), document.MaxLayers)
	}
	if len(diffs) != len(layers) {
		return nil, fmt.Errorf("the image has %d layers, its config names %d", len(layers), len(diffs))
	}
	for i, l := range layers {
		if _, err := decompressorFor(l.MediaType); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if err := checkDigest(l.Digest); err != nil {
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
		if err := checkDigest(d); err != nil {
			return nil, fmt.Errorf("rootfs.diff_ids[%d]: %w", i, err)
		}
	}
	if len(diffs) == 0 {
		return []digest.Digest{digest.FromString("")}, nil
	}
	return identity.ChainIDs(slices.Clone(diffs)), nil
}
