package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
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
	Docker   DockerConfig // of the config too
	Manifest *Manifest    // never nil; where the image has none it has the ports that the config exposes
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
	Reused             int64 // of what is done: it was in other layers of this host
}

var onlyHex = regexp.MustCompile(`^[0-9a-f]{6,64}$`)

// DigestHint says how a digest is written where a name looks like one that is
// written otherwise; it is empty for other names.
func DigestHint(name string) string {
	if !onlyHex.MatchString(name) {
		return ""
	}
	return fmt.Sprintf(" (this is a name; a digest is written sha256:%s)", name)
}

// NotFound is an ErrNotFound for a name or digest.
func NotFound(ref string) error { return fmt.Errorf("%w: %q%s", ErrNotFound, ref, DigestHint(ref)) }

// CheckName keeps names usable as references and harmless on a terminal.
func CheckName(name string) error {
	if strings.HasPrefix(name, "sha256:") {
		return fmt.Errorf("image name %q: sha256: begins a digest, not a name", name)
	}
	plain, hex, pinned := strings.Cut(name, "@sha256:")
	if !imageName.MatchString(plain) || pinned && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() != nil {
		return fmt.Errorf("image name %q: want up to 255 letters, digits and . _ / : + -, "+
			"beginning with a letter or digit, and at most a digest behind an @", name)
	}
	return nil
}
