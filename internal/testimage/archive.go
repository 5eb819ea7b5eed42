package testimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// archive is an OCI layout in a tar. Its first error is kept until the end.
type archive struct {
	out bytes.Buffer
	tw  *tar.Writer
	err error
}

func newArchive() *archive {
	a := &archive{}
	a.tw = tar.NewWriter(&a.out)
	a.put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return a
}

func (a *archive) put(name string, text []byte) {
	err := a.tw.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = a.tw.Write(text)
	}
	a.err = errors.Join(a.err, err)
}

func (a *archive) blob(mediaType string, text []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	a.put("blobs/sha256/"+d.Digest.Encoded(), text)
	return d
}

func (a *archive) json(v any) []byte {
	text, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	return text
}

// write makes an image of a config and a layer, under a name, and puts the archive
// into a file.
func (a *archive) write(path, name string, config []byte, layer ocispec.Descriptor) error {
	m := a.blob(ocispec.MediaTypeImageManifest, a.json(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: a.blob(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{layer}}))
	m.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	a.put("index.json", a.json(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{m}}))
	return errors.Join(a.err, a.tw.Close(), os.WriteFile(path, a.out.Bytes(), 0o644))
}
