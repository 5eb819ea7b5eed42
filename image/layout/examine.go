package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// Examination is what is known of a layout that may have any fault.
type Examination struct {
	image.Findings
	Layout *Layout        // nil where an archive could not be extracted
	Images []*image.Image // that can be read, and whose layers are what they should be
	seen   map[digest.Digest]bool
}

// Examine looks at every image of an OCI layout directory or an oci-archive for
// whose platform want is true: at the index, the manifests, the configs, and whether
// every blob is there and is what its descriptor says. The error is for what kept
// it from looking, such as a path where nothing is.
func Examine(ctx context.Context, path string, limits image.Limits,
	want func(ocispec.Platform) bool) (*Examination, error) {
	in, err := OpenInput(path, path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	e := &Examination{seen: map[digest.Digest]bool{}}
	if e.Layout, err = in.layout(ctx, extraction{limits: limits.WithDefaults()}); err != nil {
		if ctx.Err() != nil || in.members(extraction{}) == nil {
			return nil, err
		}
		e.Add(image.Error, "archive", path, "%v", err)
		return e, nil
	}
	e.layoutFile()
	b, err := e.Layout.foreignIndex()
	if err != nil {
		e.Add(image.Error, "index-missing", indexFile,
			"not an OCI layout or oci-archive, a docker-archive or a dir: %v", err)
		return e, nil
	}
	err = e.index(ctx, "index", ocispec.MediaTypeImageIndex, b, want, 1)
	if err == nil && len(e.Images) == 0 && e.Errors() == 0 {
		e.Add(image.Error, "no-image", "index", "it names no image that can be used")
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close lets go of the layout.
func (e *Examination) Close() error {
	if e.Layout == nil {
		return nil
	}
	return e.Layout.Close()
}

func (e *Examination) layoutFile() {
	b, err := regular.ReadIn(e.Layout.root, ocispec.ImageLayoutFile, document.MaxBytes)
	version := ""
	if err == nil {
		version, err = document.LayoutVersion(b)
	}
	switch {
	case err != nil:
		e.Add(image.Warning, "layout-file", ocispec.ImageLayoutFile, "%v", err)
	case version != ocispec.ImageLayoutVersion:
		e.Add(image.Warning, "layout-version", ocispec.ImageLayoutFile, "the version %.100q is not %s",
			version, ocispec.ImageLayoutVersion)
	}
}

func (e *Examination) index(ctx context.Context, where, mediaType string, b []byte, want func(ocispec.Platform) bool,
	depth int) error {
	idx, err := document.ReadIndex(b, mediaType)
	if err != nil {
		e.malformed("index-malformed", where, err)
		return nil
	}
	if len(idx.Manifests) == 0 {
		e.Add(image.Error, "index-empty", where, "it names no image")
	}
	if err := image.CheckNames(idx.Manifests); err != nil {
		e.Add(image.Error, "name-ambiguous", where, "%v", err)
	}
	before := len(e.Images)
	var absent []string // what others save of an index has images of some platforms alone
	for i, d := range idx.Manifests {
		at := fmt.Sprintf("%s, manifest %d", where, i+1)
		switch {
		case d.Platform != nil && !image.IsArtifact(d) && !want(*d.Platform):
			continue
		case image.IsArtifact(d):
			e.Add(image.Note, "artifact", at, "not an image, such as a signature or an attestation: not examined")
			continue
		case e.Layout.lacks(d):
			absent = append(absent, fmt.Sprintf("%s (%s): blob %s is missing", at, image.PlatformText(d.Platform),
				d.Digest))
			continue
		}
		if err := e.entry(ctx, at, d, want, depth); err != nil {
			return err
		}
	}
	severity := image.Warning
	if len(e.Images) == before {
		severity = image.Error
	}
	for _, text := range absent {
		e.Add(severity, "blob-missing", where, "%s", text)
	}
	return nil
}

// entry looks at what one of an index names.
func (e *Examination) entry(ctx context.Context, at string, d ocispec.Descriptor, want func(ocispec.Platform) bool,
	depth int) error {
	b, err := e.blob(ctx, at, d, true)
	switch {
	case err != nil || b == nil:
		return err
	case document.IsImage(d.MediaType):
		return e.manifest(ctx, at, d, b, want)
	case document.IsIndex(d.MediaType) && depth < image.MaxIndexes:
		return e.index(ctx, at, d.MediaType, b, want, depth+1)
	case document.IsIndex(d.MediaType):
		e.Add(image.Error, "index-depth", at, "more than %d indexes are within each other", image.MaxIndexes)
	default:
		e.Add(image.Warning, "media-type", at, "%v: not examined", document.CheckType(d.MediaType))
	}
	return nil
}

// malformed is a finding about a document that cannot be read.
func (e *Examination) malformed(code, where string, err error) {
	if errors.Is(err, document.ErrMediaType) {
		code = "media-type"
	}
	e.Add(image.Error, code, where, "%v", err)
}

// blob verifies one, and returns its content if it is a small one. Without
// content there is a finding.
func (e *Examination) blob(ctx context.Context, where string, d ocispec.Descriptor,
	small bool) (content []byte, err error) {
	if err := document.CheckDigest(d.Digest); err != nil {
		e.Add(image.Error, "digest-malformed", where, "%v", err)
		return nil, nil
	}
	f, size, err := e.Layout.openBlob(d.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		e.Add(image.Error, "blob-missing", where, "blob %s is missing", d.Digest)
		return nil, nil
	}
	if err != nil {
		e.Add(image.Error, "blob-unreadable", where, "blob %s: %v", d.Digest, err)
		return nil, nil
	}
	defer f.Close()
	if size != d.Size {
		e.Add(image.Error, "blob-size", where, "blob %s has %d bytes, its descriptor says %d", d.Digest, size, d.Size)
	}
	if small && size > document.MaxBytes {
		e.Add(image.Error, "blob-size", where, "blob %s: %d bytes are over the limit of %d",
			d.Digest, size, document.MaxBytes)
		return nil, nil
	}
	digester := digest.SHA256.Digester()
	content = []byte{}
	if small {
		if content, err = io.ReadAll(io.LimitReader(f, document.MaxBytes)); err == nil {
			_, err = digester.Hash().Write(content)
		}
	} else {
		_, err = blob.Copy(digester.Hash(), blob.WithContext(ctx, f))
	}
	if err != nil {
		return nil, err
	}
	if got := digester.Digest(); got != d.Digest {
		e.Add(image.Error, "blob-digest", where, "blob %s: digest mismatch: its content has %s", d.Digest, got)
	}
	return content, nil
}

func (e *Examination) manifest(ctx context.Context, where string, d ocispec.Descriptor, b []byte,
	want func(ocispec.Platform) bool) error {
	if e.seen[d.Digest] {
		return nil // under another name
	}
	e.seen[d.Digest] = true
	before := e.Errors()
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil {
		e.malformed("manifest-malformed", where, err)
		return nil
	}
	if !document.IsConfig(m.Config.MediaType) {
		e.Add(image.Warning, "media-type", where, "the config's type %q is not that of an image: not examined",
			m.Config.MediaType)
		return nil
	}
	text, err := e.blob(ctx, where+", config", m.Config, true)
	if err != nil {
		return err
	}
	if text != nil && !e.config(where+", config", d, m, text, want) {
		return nil
	}
	if err := e.layers(ctx, where, m); err != nil || e.Errors() > before {
		return err
	}
	img, err := e.Layout.load(d)
	if err == nil {
		err = img.Check(image.AnyPlatform, e.Layout.limits)
	}
	if err != nil {
		e.Add(image.Error, "image", where, "%v", err)
		return nil
	}
	img.Name = image.OwnName(d)
	e.Images = append(e.Images, img)
	return nil
}

func (e *Examination) layers(ctx context.Context, where string, m ocispec.Manifest) error {
	first := map[digest.Digest]int{}
	for i, l := range m.Layers {
		at := fmt.Sprintf("%s, layer %d", where, i+1)
		if err := document.CheckLayer(l.MediaType); err != nil {
			e.Add(image.Error, "media-type", at, "%v", err)
		}
		if n, twice := first[l.Digest]; twice {
			e.Add(image.Note, "layer-twice", at, "same as layer %d", n)
			continue
		}
		first[l.Digest] = i + 1
		if document.IsForeign(l.MediaType) && e.Layout.lacks(l) {
			e.Add(image.Error, "blob-missing", at, "%v", missingForeign(l))
			continue
		}
		if _, err := e.blob(ctx, at, l, false); err != nil {
			return err
		}
	}
	return nil
}

// config is false where the image is not a wanted one.
func (e *Examination) config(where string, d ocispec.Descriptor, m ocispec.Manifest, text []byte,
	want func(ocispec.Platform) bool) bool {
	c, err := document.ReadConfig(text, m.Config.MediaType)
	if err != nil {
		e.malformed("config-malformed", where, err)
		return true
	}
	if !want(c.Platform) {
		return false
	}
	if p := d.Platform; p != nil && p.OS != "" && (p.OS != c.OS || p.Architecture != c.Architecture) {
		e.Add(image.Error, "platform", where, "it is for %s, the index says %s",
			image.PlatformText(&c.Platform), image.PlatformText(p))
	}
	if c.RootFS.Type != "layers" {
		e.Add(image.Warning, "config-malformed", where, "rootfs.type is %q, not layers", c.RootFS.Type)
	}
	if n := len(c.RootFS.DiffIDs); n != len(m.Layers) {
		e.Add(image.Error, "diff-ids", where, "the image has %d layers, its config names %d", len(m.Layers), n)
	}
	for i, id := range c.RootFS.DiffIDs {
		if err := document.CheckDigest(id); err != nil {
			e.Add(image.Error, "digest-malformed", where, "rootfs.diff_ids[%d]: %v", i, err)
		}
	}
	e.history(where, c, len(m.Layers))
	if label, ok := c.Config.Labels[image.ManifestLabel]; ok {
		_, err := image.ParseManifest([]byte(label))
		for _, err := range flatten(err) {
			e.Add(image.Error, "freejail-manifest", where, "%v", err)
		}
	}
	return true
}

func (e *Examination) history(where string, c ocispec.Image, layers int) {
	made := 0
	for _, h := range c.History {
		if !h.EmptyLayer {
			made++
		}
	}
	if len(c.History) > 0 && made != layers {
		e.Add(image.Warning, "history", where, "the history has %d layers, the image has %d", made, layers)
	}
}

// flatten makes a list of joined errors.
func flatten(err error) (out []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	if err != nil {
		out = append(out, err)
	}
	return out
}
