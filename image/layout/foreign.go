package layout

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// savedMember is a file that a manifest.json names, and what it became.
type savedMember struct {
	ocispec.Descriptor
	taken bool
}

// saved makes a layout of a docker-archive, which docker save and podman save write. The
// config, and so the image's ID, is kept as it is; the OCI manifest is made here, the same
// of the same archive.
func (e *extractor) saved(ctx context.Context) error {
	list, err := document.ReadSaved(e.manifest)
	if err != nil {
		return fmt.Errorf("%s: %w", manifestFile, err)
	}
	e.followed = map[string]bool{}
	files := map[string]*savedMember{}
	for _, s := range list {
		for _, name := range append([]string{s.Config}, s.Layers...) {
			real, err := e.resolve(name)
			if err != nil {
				return fmt.Errorf("%s: %w", manifestFile, err)
			}
			files[real] = &savedMember{}
		}
	}
	if err := e.take(ctx, files); err != nil {
		return err
	}
	var index []ocispec.Descriptor
	for i, s := range list {
		d, err := e.convert(s, files)
		if err != nil {
			return fmt.Errorf("%s: image %d: %w", manifestFile, i+1, err)
		}
		index = append(index, entriesOf(d, s.RepoTags)...)
	}
	return e.finish(index)
}

// entriesOf are those of an index for the names of an image.
func entriesOf(d ocispec.Descriptor, names []string) (out []ocispec.Descriptor) {
	if len(names) == 0 {
		return []ocispec.Descriptor{d}
	}
	for _, name := range names {
		d.Annotations = map[string]string{refName: name}
		out = append(out, d)
	}
	return out
}

// maxHops bounds links that lead to links.
const maxHops = 8

// resolve follows the links of the archive from a name in the image's folder to a file's.
func (e *extractor) resolve(name string) (string, error) {
	at := inArchive(path.Join(e.folder, name))
	if path.IsAbs(name) || e.folder != "" && !strings.HasPrefix(at, e.folder+"/") {
		at = outside
	}
	for range maxHops {
		to, link := e.links[at]
		if !link {
			break
		}
		e.followed[at] = true
		at = to
	}
	if at == severalLinks {
		return "", fmt.Errorf("%.100q: %w", name, errDuplicate)
	}
	if _, link := e.links[at]; link {
		return "", fmt.Errorf("%.100q: too many links", name)
	}
	if at == outside {
		return "", fmt.Errorf("%.100q leads out of the archive", name)
	}
	return at, nil
}

// take makes blobs of the files that are wanted.
func (e *extractor) take(ctx context.Context, files map[string]*savedMember) error {
	return e.from.each(ctx, func(m member) error {
		f, wanted := files[m.name]
		switch {
		case m.link == "" && e.followed[m.name]: // others may take this one
			return errDuplicate
		case !wanted:
			return nil
		case m.link != "" || f.taken:
			return errDuplicate
		}
		f.taken = true
		if err := e.charge(m); err != nil {
			return err
		}
		var err error
		f.Descriptor, err = e.add(m.r)
		return err
	})
}

// add makes a blob of what it reads.
func (e *extractor) add(r io.Reader) (d ocispec.Descriptor, err error) {
	f, err := os.CreateTemp(e.dir, "blob-")
	if err != nil {
		return d, err
	}
	h := sha256.New()
	d.Size, err = blob.Copy(io.MultiWriter(f, h), r)
	d.Digest = digest.NewDigest(digest.SHA256, h)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(e.dir, blobName(d.Digest)))
	}
	return d, err
}

// convert makes an image's manifest. Layers that are not compressed are compared with
// what the config says; others are when they are unpacked.
func (e *extractor) convert(s document.Saved, files map[string]*savedMember) (d ocispec.Descriptor, err error) {
	file := func(name string) (ocispec.Descriptor, error) {
		real, err := e.resolve(name)
		if err == nil && !files[real].taken {
			err = fmt.Errorf("%.100q is missing in the archive", name)
		}
		if err != nil {
			return d, err
		}
		return files[real].Descriptor, nil
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{}}
	if m.Config, err = file(s.Config); err != nil {
		return d, err
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	config, err := e.readConfig(s.Config, m.Config)
	if err != nil {
		return d, fmt.Errorf("image config: %w", err)
	}
	if n := len(config.RootFS.DiffIDs); n != len(s.Layers) {
		return d, fmt.Errorf("the image has %d layers, its config names %d", len(s.Layers), n)
	}
	for i, name := range s.Layers {
		l, err := file(name)
		if err == nil {
			l.MediaType, err = e.layerType(l.Digest)
		}
		if err == nil && l.MediaType == ocispec.MediaTypeImageLayer && l.Digest != config.RootFS.DiffIDs[i] {
			err = fmt.Errorf("its content has the digest %s, the config says %s", l.Digest, config.RootFS.DiffIDs[i])
		}
		if err != nil {
			return d, fmt.Errorf("layer %d: %w", i+1, err)
		}
		m.Layers = append(m.Layers, l)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return d, err
	}
	d, err = e.add(strings.NewReader(string(text)))
	d.MediaType = m.MediaType
	if config.OS != "" {
		d.Platform = &config.Platform
	}
	return d, err
}

// readConfig reads a config, whose name is mostly its digest.
func (e *extractor) readConfig(name string, d ocispec.Descriptor) (c ocispec.Image, err error) {
	hex := strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:")
	if want := digest.NewDigestFromEncoded(digest.SHA256, hex); want.Validate() == nil && want != d.Digest {
		return c, blob.Mismatch(want, d.Digest)
	}
	f, _, err := regular.Open(filepath.Join(e.dir, blobName(d.Digest)))
	if err != nil {
		return c, err
	}
	text, err := regular.Read(f, name, document.MaxBytes)
	if err = errors.Join(err, f.Close()); err != nil {
		return c, err
	}
	return document.ReadConfig(text, d.MediaType)
}

// layerType tells how a blob is compressed. OCI has no types for bzip2 and xz, which are
// read by their bytes all the same.
func (e *extractor) layerType(d digest.Digest) (string, error) {
	f, _, err := regular.Open(filepath.Join(e.dir, blobName(d)))
	if err != nil {
		return "", err
	}
	defer f.Close()
	switch how, err := blob.Compression(f); how {
	case "gzip", "zstd":
		return ocispec.MediaTypeImageLayer + "+" + how, err
	case "":
		return ocispec.MediaTypeImageLayer, err
	default:
		return ocispec.MediaTypeImageLayerGzip, err // whatever it is, it is not plain
	}
}

// flat makes a layout of what skopeo copies to dir:. Its files are blobs that
// are named by their digests without sha256:.
func (e *extractor) flat(ctx context.Context) error {
	d, err := e.add(strings.NewReader(string(e.manifest)))
	if err == nil {
		d.MediaType, err = document.TypeOf(e.manifest)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", manifestFile, err)
	}
	err = e.from.each(ctx, func(m member) error {
		name := m.name
		if e.folder != "" {
			name = strings.TrimPrefix(name, e.folder+"/")
		}
		file := blobDir + "/" + strings.TrimSuffix(name, "."+manifestFile)
		if m.link != "" || blobDigest(file) == "" || blobDigest(file) == d.Digest {
			return nil
		}
		return e.write(file, m)
	})
	if err != nil {
		return err
	}
	return e.finish([]ocispec.Descriptor{d})
}
