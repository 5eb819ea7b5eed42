package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
)

// agrees compares the manifest.json of an archive with its index.json, where it has both,
// as newer dockers write: others read the former, and must find no other image there.
func (e *extractor) agrees(ctx context.Context) error {
	if !bytes.HasPrefix(bytes.TrimSpace(e.manifest), []byte("[")) {
		return nil
	}
	list, err := document.ReadSaved(e.manifest)
	var configs []digest.Digest
	if err == nil {
		configs, err = e.savedConfigs(ctx, list)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", manifestFile, err)
	}
	there, err := e.indexConfigs()
	for i, d := range configs {
		if err == nil && there != nil && !there[d] {
			err = fmt.Errorf("%s: image %d: its config %s is of no image in %s: "+
				"others would read another image from the archive", manifestFile, i+1, d, indexFile)
		}
	}
	return err
}

// indexConfigs are the configs of the images of the index; nil is for one that cannot be read.
func (e *extractor) indexConfigs() (map[digest.Digest]bool, error) {
	root, err := os.OpenRoot(e.dir)
	if err != nil {
		return nil, err
	}
	l := &Layout{root: root, name: e.dir, limits: e.limits}
	b, err := l.foreignIndex()
	var configs map[digest.Digest]bool
	if idx, bad := document.ReadIndex(b, ocispec.MediaTypeImageIndex); err == nil && bad == nil {
		configs = map[digest.Digest]bool{}
		l.addConfigs(idx.Manifests, configs, map[digest.Digest]bool{}, 0)
	}
	return configs, errors.Join(err, root.Close())
}

// savedConfigs are the digests of the configs that a manifest.json names.
func (e *extractor) savedConfigs(ctx context.Context, list []document.Saved) (out []digest.Digest, err error) {
	e.followed = map[string]bool{}
	names, files := make([]string, len(list)), map[string]*savedMember{}
	known := func(name string) digest.Digest { return blobDigest(strings.TrimPrefix(name, e.folder+"/")) }
	for i, s := range list {
		if names[i], err = e.resolve(s.Config); err != nil {
			return nil, err
		}
		if known(names[i]) == "" {
			files[names[i]] = &savedMember{}
		}
	}
	if len(files) > 0 {
		err = e.take(ctx, files)
	}
	for i, name := range names {
		d := known(name)
		if f := files[name]; f != nil {
			d = f.Digest
		}
		if err == nil && d == "" {
			err = fmt.Errorf("%.100q is missing in the archive", list[i].Config)
		}
		out = append(out, d)
	}
	return out, err
}

// addConfigs notes the configs of the images that are here, also of indexes below. What
// cannot be read has none: whoever reads the image says so.
func (l *Layout) addConfigs(list []ocispec.Descriptor, configs, seen map[digest.Digest]bool, depth int) {
	for _, d := range list {
		if seen[d.Digest] || depth > image.MaxIndexes || l.lacks(d) {
			continue
		}
		seen[d.Digest] = true
		b, err := l.ReadBlob(d)
		if err != nil {
			continue
		}
		if document.IsIndex(d.MediaType) {
			idx, err := document.ReadIndex(b, d.MediaType)
			if err == nil {
				l.addConfigs(idx.Manifests, configs, seen, depth+1)
			}
			continue
		}
		if m, err := document.ReadManifest(b, d.MediaType); err == nil {
			configs[m.Config.Digest] = true
		}
	}
}
