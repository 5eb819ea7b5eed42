package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
)

// origin is what COPY --from names: an earlier stage or an image.
type origin struct {
	stage *stage
	image *image.Image
}

// state names the files of an origin: equal ones have equal layers.
func (o *origin) state(b *builder) string {
	var diffs []digest.Digest
	if o.stage != nil {
		diffs = b.built[o.stage].config.RootFS.DiffIDs
	} else {
		diffs = o.image.Config.RootFS.DiffIDs
	}
	return fmt.Sprint(diffs)
}

// open reads what the origin has. Its files stay in their layers.
func (o *origin) open(ctx context.Context, b *builder) (source, error) {
	w := &work{builder: b, view: newView()}
	name := ""
	if o.stage != nil {
		w, name = b.built[o.stage], "stage "+o.stage.title()
	} else {
		w.layers, w.config, name = o.image.Layers, o.image.Config, o.image.Name
	}
	v, err := w.files(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &layerSource{of: w, name: name, view: v, found: map[place]*spooled{}}, nil
}

// layerSource is the files of another stage or image. It needs no root and no
// room for all of them: what is copied is read out of the layers.
type layerSource struct {
	name  string
	of    *work
	view  *view
	spool *os.File // holds the files that were read
	size  int64
	found map[place]*spooled
}

// spooled is content in the spool.
type spooled struct {
	content
	begin int64
}

func (l *layerSource) expand(sources []string) ([]string, error) {
	var out []string
	for _, s := range sources {
		name := strings.TrimPrefix(path.Clean("/"+s), "/")
		if !strings.ContainsAny(name, "*?[") {
			out = append(out, name)
			continue
		}
		found, err := glob(l, name)
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("nothing in %s matches", l.name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func (l *layerSource) stat(name string, follow bool) (*node, error) {
	_, n, missing, err := l.view.walk(name, follow)
	if err == nil && len(missing) > 0 {
		err = errors.New("no such file or directory")
	}
	if err != nil {
		return nil, fmt.Errorf("/%s of %s: %w", name, l.name, err)
	}
	return n, nil
}

func (l *layerSource) list(dir string) ([]string, error) {
	n, err := l.stat(dir, true)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

func (l *layerSource) skips(string) (skip, look bool, err error) { return false, false, nil }

// collect reads the layers that have what is wanted, each once.
func (l *layerSource) collect(ctx context.Context, list []item) error {
	wanted := map[int]map[int]bool{} // layer and entry
	for _, i := range list {
		if i.from == (place{}) || l.found[i.from] != nil {
			continue
		}
		if wanted[i.from.layer] == nil {
			wanted[i.from.layer] = map[int]bool{}
		}
		wanted[i.from.layer][i.from.entry] = true
	}
	if len(wanted) > 0 && l.spool == nil {
		var err error
		if l.spool, err = os.CreateTemp(l.of.dir, "copy-"); err != nil {
			return err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(wanted)) {
		if err := l.readLayer(ctx, n, wanted[n]); err != nil {
			return fmt.Errorf("layer %d of %s: %w", n, l.name, err)
		}
	}
	return nil
}

func (l *layerSource) readLayer(ctx context.Context, n int, wanted map[int]bool) (err error) {
	r, err := l.of.openLayer(ctx, n-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	tr := tar.NewReader(r)
	for entry, left := 1, len(wanted); left > 0; entry++ {
		h, err := tr.Next()
		if err != nil {
			return err
		}
		if !wanted[entry] {
			continue
		}
		left--
		c := &spooled{content{size: h.Size, mtime: h.ModTime, flags: h.PAXRecords[flagsRecord]}, l.size}
		if h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeSymlink {
			if l.size += h.Size; l.size > maxLayer {
				return fmt.Errorf("entry %q: with it there is more to copy than the limit of %d bytes", h.Name,
					int64(maxLayer))
			}
			if _, err := io.Copy(l.spool, tr); err != nil {
				return fmt.Errorf("entry %q: %w", h.Name, err)
			}
		}
		l.found[place{n, entry}] = c
	}
	return nil
}

func (l *layerSource) open(_ context.Context, i item) (*content, error) {
	if s := l.found[i.from]; s != nil {
		c := s.content
		c.ReadCloser = io.NopCloser(io.NewSectionReader(l.spool, s.begin, c.size))
		return &c, nil
	}
	return &content{ReadCloser: io.NopCloser(bytes.NewReader(nil))}, nil // a directory that no entry names
}

func (l *layerSource) close() error {
	if l.spool == nil {
		return nil
	}
	return errors.Join(l.spool.Close(), os.Remove(l.spool.Name()))
}
