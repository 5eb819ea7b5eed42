package image

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNotFound means that no image has this name or digest.
var ErrNotFound = errors.New("no such image")

// Limits bound what an image may unpack to. 0 is the default.
type Limits struct {
	LayerBytes int64 // default 8 GiB
	ImageBytes int64 // default 16 GiB
	Entries    int64 // default 1,000,000
}

// WithDefaults puts the defaults in.
func (l Limits) WithDefaults() Limits {
	def := func(n *int64, v int64) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&l.LayerBytes, 8<<30)
	def(&l.ImageBytes, 16<<30)
	def(&l.Entries, 1_000_000)
	return l
}

// Image is what is known of an image by its documents.
type Image struct {
	Name     string
	Digest   digest.Digest // of the OCI image manifest
	Config   ocispec.Image
	Manifest *Manifest // never nil; empty where the image has none
	Layers   []ocispec.Descriptor
	ChainID  digest.Digest
	Chains   []digest.Digest // of the first layer, the first two layers and so on; the last is ChainID
	Size     int64           // of the layers as they are stored
	Created  time.Time
	Pulled   bool // for a task, not by an operator's word; see layout.FetchOptions
	Private  bool // had with credentials that not everybody here has; see layout.FetchOptions
}

// Progress is how far a pull, an import or an unpacking has come. Sizes are in bytes, as the layers are
// stored; what was there already counts as done.
type Progress struct {
	Layers, LayersDone int
	Size, Done         int64
}
