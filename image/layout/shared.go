package layout

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

// Shared is an image of a store that may be given to other hosts.
type Shared struct {
	Name     string
	Manifest ocispec.Descriptor
	Blobs    []ocispec.Descriptor // config and layers
}

// Shared lists the images of a store's directory that are everybody's on this host and whose name fits, without the
// layers that their makers let nobody pass on. One that cannot be read is left out. Another process may write there.
func (l *Layout) Shared(fits func(name string) bool) ([]Shared, error) {
	idx, err := l.Index()
	if err != nil {
		return nil, err
	}
	var out []Shared
	for _, d := range idx.Manifests {
		name := d.Annotations[refName]
		if private(d) || !fits(name) {
			continue
		}
		m, err := l.manifestOf(d)
		if err != nil {
			continue
		}
		s := Shared{Name: name, Blobs: []ocispec.Descriptor{m.Config},
			Manifest: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
		if m.MediaType != "" {
			s.Manifest.MediaType = m.MediaType
		}
		for _, layer := range m.Layers {
			if !document.IsForeign(layer.MediaType) {
				s.Blobs = append(s.Blobs, layer)
			}
		}
		out = append(out, s)
	}
	return out, nil
}
