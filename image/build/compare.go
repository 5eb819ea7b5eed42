package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

// Change is how one file or directory of an image differs from another image's.
type Change struct {
	Kind string   `json:"kind"` // added, removed or changed
	Path string   `json:"path"` // absolute, in the image
	What []string `json:"what,omitempty"`
}

// Side is an image and where its layers are.
type Side struct {
	Layout *layout.Layout
	Image  *image.Image
}

// Compare tells how the files of two images differ, sorted by their paths. It
// reads the layers and merges them in memory; nothing is unpacked.
func Compare(ctx context.Context, a, b Side) ([]Change, error) {
	va, err := a.merged(ctx)
	if err != nil {
		return nil, fmt.Errorf("the first image: %w", err)
	}
	vb, err := b.merged(ctx)
	if err != nil {
		return nil, fmt.Errorf("the second image: %w", err)
	}
	c := &comparison{}
	c.directory("/", va.root, vb.root)
	return c.changes, nil
}

func (s Side) merged(ctx context.Context) (*view, error) {
	v := newView()
	v.sums = true
	for i, l := range s.Image.Layers {
		if err := s.addLayer(ctx, v, i); err != nil {
			return nil, fmt.Errorf("layer %d (%.19s): %w", i+1, l.Digest, err)
		}
	}
	return v, nil
}

func (s Side) addLayer(ctx context.Context, v *view, i int) (err error) {
	r, err := unpack.OpenLayer(ctx, s.Layout, s.Image.Layers[i])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return v.apply(r)
}

type comparison struct{ changes []Change }

func (c *comparison) add(kind, at string, what ...string) {
	c.changes = append(c.changes, Change{kind, at, what})
}

// directory compares what is in two directories; nil is one that is not there.
func (c *comparison) directory(at string, a, b *node) {
	names := map[string]bool{}
	for _, n := range []*node{a, b} {
		if n != nil {
			for name := range n.names {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c.entry(path.Join(at, name), child(a, name), child(b, name))
	}
}

func child(n *node, name string) *node {
	if n == nil {
		return nil
	}
	return n.names[name]
}

func (c *comparison) entry(at string, a, b *node) {
	switch {
	case a == nil:
		c.add("added", at, describeNode(b))
	case b == nil:
		c.add("removed", at, describeNode(a))
	default:
		if what := differences(a, b); len(what) > 0 {
			c.add("changed", at, what...)
		}
	}
	if a != nil && a.kind == tar.TypeDir || b != nil && b.kind == tar.TypeDir {
		c.directory(at, a, b)
	}
}

func kindText(n *node) string {
	switch n.kind {
	case tar.TypeDir:
		return "directory"
	case tar.TypeSymlink:
		return "link"
	case tar.TypeFifo:
		return "FIFO"
	}
	return "file"
}

func describeNode(n *node) string {
	switch n.kind {
	case tar.TypeSymlink:
		return fmt.Sprintf("link to %q", n.link)
	case tar.TypeDir:
		return fmt.Sprintf("directory, mode %04o, owner %d:%d", n.mode, n.uid, n.gid)
	case tar.TypeFifo:
		return fmt.Sprintf("FIFO, mode %04o, owner %d:%d", n.mode, n.uid, n.gid)
	}
	return fmt.Sprintf("file, %d bytes, mode %04o, owner %d:%d", n.size, n.mode, n.uid, n.gid)
}

func differences(a, b *node) (out []string) {
	if a.kind != b.kind {
		return []string{kindText(a) + " -> " + kindText(b)}
	}
	if a.kind == tar.TypeSymlink && a.link != b.link {
		out = append(out, fmt.Sprintf("target %q -> %q", a.link, b.link))
	}
	if a.size != b.size {
		out = append(out, fmt.Sprintf("size %d -> %d", a.size, b.size))
	} else if a.sum != b.sum {
		out = append(out, "content")
	}
	if a.mode != b.mode && a.kind != tar.TypeSymlink {
		out = append(out, fmt.Sprintf("mode %04o -> %04o", a.mode, b.mode))
	}
	if a.uid != b.uid || a.gid != b.gid {
		out = append(out, fmt.Sprintf("owner %d:%d -> %d:%d", a.uid, a.gid, b.uid, b.gid))
	}
	return out
}
