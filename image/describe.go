package image

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/document"
)

// Describe reads an image of which only the OCI manifest and the config are
// here, and verifies them: the manifest by the digest, the config by the
// manifest.
func Describe(name string, d digest.Digest, manifest, config []byte) (*Image, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	if got := digest.FromBytes(manifest); got != d {
		return nil, fmt.Errorf("image manifest %s has another content: its digest is %s", d, got)
	}
	m, err := document.ReadManifest(manifest, "")
	if err != nil {
		return nil, fmt.Errorf("image manifest %s: %w", d, err)
	}
	if got := digest.FromBytes(config); got != m.Config.Digest {
		return nil, fmt.Errorf("image config %s has another content: its digest is %s", m.Config.Digest, got)
	}
	if err := checkDescription(int64(len(manifest) + len(config))); err != nil {
		return nil, err
	}
	c, err := document.ReadConfig(config, m.Config.MediaType)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	img, err := describe(c, m.Layers)
	if err != nil {
		return nil, err
	}
	img.Name, img.Digest = name, d
	return img, nil
}

// Description returns an image's OCI manifest and config as they are stored.
func (s *Store) Description(img *Image) (manifest, config []byte, err error) {
	d, err := s.find(img.Digest.String())
	if err != nil {
		return nil, nil, err
	}
	if manifest, err = s.smallBlob(d); err != nil {
		return nil, nil, err
	}
	m, err := s.manifestOf(d)
	if err != nil {
		return nil, nil, err
	}
	config, err = s.smallBlob(m.Config)
	return manifest, config, err
}
