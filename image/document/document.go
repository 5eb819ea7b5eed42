// Package document reads the JSON documents of OCI's and Docker's images. What
// is signed or named by a digest is read in one way only, wherever it comes from
// and whatever those say who hand it on.
package document

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/strictjson"
)

// MaxBytes bounds a manifest, an index or a config. Registries take at least so
// much of a manifest: OCI distribution specification.
const MaxBytes = 4 << 20

// MaxLayoutBytes bounds the index.json of a layout that is this host's own.
const MaxLayoutBytes = 8 << 20

// MaxDescription bounds an image's manifest and config together, in bytes: they
// are held in memory for as long as a task starts.
const MaxDescription = 2 << 20

// MaxLayers bounds the layers of an image that is to be unpacked.
const MaxLayers = 1000

var (
	rules       = strictjson.Rules{Bytes: MaxBytes, Values: 1 << 16}
	layoutRules = strictjson.Rules{Bytes: MaxLayoutBytes, Values: 1 << 19}
	// FreeBSD's own images spell Cmd in lower case.
	configRules = strictjson.Rules{Bytes: MaxBytes, Values: 1 << 16, AnyCase: true}
)

// ErrMediaType is in the error of a document that says of itself to be something
// else than its descriptor does.
var ErrMediaType = errors.New("media type mismatch")

// CheckDigest refuses what is not a SHA-256 digest.
func CheckDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: not supported, only sha256 is", d)
	}
	return nil
}

// ReadManifest reads the manifest of an image or an artifact. mediaType is what
// its descriptor says; empty, where there is none, takes any that is a manifest's.
func ReadManifest(b []byte, mediaType string) (ocispec.Manifest, error) {
	var m struct {
		ocispec.Manifest
		Manifests json.RawMessage `json:"manifests"`
		RootFS    json.RawMessage `json:"rootfs"`
		History   json.RawMessage `json:"history"`
		foreign
	}
	err := strictjson.Unmarshal(b, &m, rules)
	if err == nil && m.SchemaVersion == 1 && m.FSLayers != nil {
		err = errSchema1
	}
	if err == nil {
		err = m.absent("an image manifest", alien{"manifests", m.Manifests}, alien{"rootfs", m.RootFS},
			alien{"history", m.History})
	}
	switch {
	case err != nil:
	case m.SchemaVersion != 2:
		err = fmt.Errorf("schemaVersion: want 2, got %d", m.SchemaVersion)
	case m.Config.Digest == "":
		err = errors.New("config: missing, or without a digest")
	default:
		err = agree(mediaType, m.MediaType, IsImage, "an image manifest")
	}
	return m.Manifest, err
}

// ReadIndex reads an index, with a mediaType as ReadManifest's. The index.json of
// a layout is one by its name: ocispec.MediaTypeImageIndex.
func ReadIndex(b []byte, mediaType string) (ocispec.Index, error) {
	return readIndex(b, mediaType, rules)
}

// ReadLayoutIndex reads the index.json of a layout that is this host's own, and
// so may be larger.
func ReadLayoutIndex(b []byte) (ocispec.Index, error) {
	return readIndex(b, ocispec.MediaTypeImageIndex, layoutRules)
}

func readIndex(b []byte, mediaType string, r strictjson.Rules) (ocispec.Index, error) {
	var x struct {
		ocispec.Index
		Config  json.RawMessage `json:"config"`
		Layers  json.RawMessage `json:"layers"`
		RootFS  json.RawMessage `json:"rootfs"`
		History json.RawMessage `json:"history"`
		foreign
	}
	err := strictjson.Unmarshal(b, &x, r)
	if err == nil {
		err = x.absent("an index", alien{"config", x.Config}, alien{"layers", x.Layers}, alien{"rootfs", x.RootFS},
			alien{"history", x.History})
	}
	switch {
	case err != nil:
	case x.SchemaVersion != 2:
		err = fmt.Errorf("schemaVersion: want 2, got %d", x.SchemaVersion)
	default:
		err = agree(mediaType, x.MediaType, IsIndex, "an index")
	}
	return x.Index, err
}

// Check reads a document of either kind, which mediaType tells, and drops it.
func Check(b []byte, mediaType string) (err error) {
	kind := "image manifest"
	if IsIndex(mediaType) {
		kind = "image index"
		_, err = ReadIndex(b, mediaType)
	} else {
		_, err = ReadManifest(b, mediaType)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

// Type tells the type of a manifest or an index by its own words: what it says of
// itself, or else which fields it has. Of the two types for one kind of document,
// OCI's and Docker's, a hint counts where it says nothing. Check is still to be asked.
func Type(b []byte, hint string) (string, error) {
	var own struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	if err := strictjson.Unmarshal(b, &own, rules); err != nil {
		return "", err
	}
	switch {
	case IsManifest(own.MediaType):
		return own.MediaType, nil
	case own.MediaType != "":
		return "", fmt.Errorf("%w: the document says %.100q", ErrMediaType, own.MediaType)
	case own.Manifests != nil && IsIndex(hint), own.Config != nil && IsImage(hint):
		return hint, nil
	case own.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	case own.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("%w: it has neither manifests nor a config", ErrMediaType)
}

// ReadConfig reads an image's config, with a mediaType as ReadManifest's.
func ReadConfig(b []byte, mediaType string) (ocispec.Image, error) {
	var c struct {
		ocispec.Image
		MediaType     string          `json:"mediaType"`
		SchemaVersion json.RawMessage `json:"schemaVersion"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		foreign
	}
	err := strictjson.Unmarshal(b, &c, configRules)
	if err == nil {
		err = c.absent("an image's config", alien{"schemaVersion", c.SchemaVersion}, alien{"layers", c.Layers},
			alien{"manifests", c.Manifests})
	}
	if err == nil {
		err = agree(mediaType, c.MediaType, IsConfig, "an image's config")
	}
	return c.Image, err
}

// foreign are fields of Docker's first manifests and of OCI's former artifacts.
type foreign struct {
	FSLayers json.RawMessage `json:"fsLayers"`
	Blobs    json.RawMessage `json:"blobs"`
}

// alien is a field that makes a document look like one of another kind.
type alien struct {
	name string
	text json.RawMessage // nil where it is not there: null is there
}

func (f foreign) absent(kind string, list ...alien) error {
	for _, a := range append(list, alien{"fsLayers", f.FSLayers}, alien{"blobs", f.Blobs}) {
		if a.text != nil {
			return fmt.Errorf("%s: %s has no such field: others would read the document as one of another kind",
				a.name, kind)
		}
	}
	return nil
}

// agree compares what a document says of itself, if it does, with its descriptor.
func agree(wanted, own string, known func(string) bool, kind string) error {
	switch {
	case wanted != "" && !known(wanted):
		return fmt.Errorf("%w: %.100q is not the type of %s", ErrMediaType, wanted, kind)
	case own != "" && !known(own):
		return fmt.Errorf("%w: the document says %.100q, which is not the type of %s", ErrMediaType, own, kind)
	case own != "" && wanted != "" && own != wanted:
		return fmt.Errorf("%w: the document says %.100q, its descriptor or registry %.100q", ErrMediaType, own, wanted)
	}
	return nil
}

// TypeOf is the type of a manifest or an index that comes without one: what it says of
// itself, or else what it looks like.
func TypeOf(b []byte) (string, error) {
	m, err := ReadManifest(b, "")
	if err == nil {
		return cmp.Or(m.MediaType, ocispec.MediaTypeImageManifest), nil
	}
	if idx, ierr := ReadIndex(b, ""); ierr == nil {
		return cmp.Or(idx.MediaType, ocispec.MediaTypeImageIndex), nil
	}
	return "", err
}

// Saved is an image in the manifest.json of a docker-archive: names of files there.
type Saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// maxSaved bounds the images of a docker-archive.
const maxSaved = 1000

// ReadSaved reads the manifest.json of a docker-archive.
func ReadSaved(b []byte) (list []Saved, err error) {
	if err := strictjson.Unmarshal(b, &list, rules); err != nil {
		return nil, err
	}
	if len(list) == 0 || len(list) > maxSaved {
		return nil, fmt.Errorf("it names %d images: want 1 to %d", len(list), maxSaved)
	}
	for i, s := range list {
		if s.Config == "" {
			return nil, fmt.Errorf("[%d]: Config is missing", i)
		}
		if len(s.Layers) > MaxLayers {
			return nil, fmt.Errorf("[%d]: %d layers: at most %d are allowed", i, len(s.Layers), MaxLayers)
		}
	}
	return list, nil
}

// LayoutVersion reads the version that a layout's oci-layout file tells.
func LayoutVersion(b []byte) (string, error) {
	var l ocispec.ImageLayout
	err := strictjson.Unmarshal(b, &l, rules)
	return l.Version, err
}
