package testimage

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/chunked"
)

// archive is an OCI layout in a tar. Its first error is kept until the end.
type archive struct {
	file *os.File
	tw   *tar.Writer
	err  error
}

func newArchive(path string) *archive {
	a := &archive{}
	a.file, a.err = os.Create(path)
	a.tw = tar.NewWriter(a.file)
	a.put("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	return a
}

func (a *archive) put(name, text string) { a.copy(name, int64(len(text)), strings.NewReader(text)) }

func (a *archive) copy(name string, size int64, r io.Reader) {
	if a.err == nil {
		a.err = a.tw.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: size})
	}
	if a.err == nil {
		_, a.err = io.Copy(a.tw, r)
	}
}

// json adds a blob.
func (a *archive) json(mediaType string, v any) ocispec.Descriptor {
	text, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	a.put("blobs/sha256/"+d.Digest.Encoded(), string(text))
	return d
}

// write makes an image of a config and a layer, under a name.
func (a *archive) write(name string, config any, l *layer) error {
	a.copy("blobs/sha256/"+l.Digest.Encoded(), l.Size, l.file)
	m := a.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: a.json(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{l.Descriptor}})
	m.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	text, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{m}})
	a.put("index.json", string(text))
	return errors.Join(a.err, err, a.tw.Close(), a.file.Close())
}

// layer is one in a file, of which memory has nothing: it may be large.
type layer struct {
	ocispec.Descriptor
	plain digest.Digest // of what is not compressed
	file  *os.File
}

func newLayer(dir string, spec Spec) (_ *layer, err error) {
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return nil, err
	}
	l := &layer{file: f, Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}}
	plain, packed := digest.Canonical.Digester(), digest.Canonical.Digester()
	out := io.MultiWriter(f, packed.Hash())
	switch {
	case spec.Chunked:
		l.MediaType = ocispec.MediaTypeImageLayerZstd
		z, zerr := chunked.NewWriter(out)
		if err = zerr; err == nil {
			err = errors.Join(writeLayer(io.MultiWriter(z, plain.Hash()), spec), z.Close())
			l.Annotations = z.Annotations()
		}
	case spec.Gzip:
		l.MediaType = ocispec.MediaTypeImageLayerGzip
		z := gzip.NewWriter(out)
		err = errors.Join(writeLayer(io.MultiWriter(z, plain.Hash()), spec), z.Close())
	default:
		err = writeLayer(io.MultiWriter(out, plain.Hash()), spec)
	}
	if err == nil {
		l.Size, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	l.plain, l.Digest = plain.Digest(), packed.Digest()
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *layer) close() error { return errors.Join(l.file.Close(), os.Remove(l.file.Name())) }
