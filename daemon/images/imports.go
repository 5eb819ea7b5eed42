package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/regular"
)

// importCache knows which archives were imported and have not changed since,
// so that a second start does not read the archive again.
type importCache struct {
	locks keylock.Map // of paths
	mu    sync.Mutex
	seen  map[regular.ID]string // -> image digest
}

// known tells whether a file was imported as the image with that digest.
func (c *importCache) known(id regular.ID, digest string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[id] == digest
}

func (c *importCache) add(id regular.ID, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || len(c.seen) > 1000 {
		c.seen = map[regular.ID]string{}
	}
	c.seen[id] = digest
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9._/:+-]{1,240}$`)

// PathName is the name that an image has by its path. Paths that no name can
// hold have one by their hash, which is no other path's.
func PathName(path string) string {
	if plainPath.MatchString(path) {
		return "file" + path
	}
	sum := sha256.Sum256([]byte(path))
	return "path-sha256/" + hex.EncodeToString(sum[:])
}

// archive is an archive or a layout directory that becomes an image of the store.
type archive struct {
	path     string
	open     func() (*layout.Input, error)
	name     string // of the image
	tell     func(string)
	progress func(image.Progress)
	named    func(string) // of the name that the archive gives it; may be nil
}

// importFile imports an archive unless it is imported already.
func (l *Library) importFile(ctx context.Context, a archive) (img *image.Image, err error) {
	// Who wants the same archive waits and finds it imported.
	unlock, err := l.imports.locks.Lock(ctx, a.path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	in, err := a.open()
	if err != nil {
		return nil, client.Invalid("image: %v", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	id := regular.IDOf(a.path, in.Info())
	if img, err := l.Store.Get(a.name); err == nil && !in.Info().IsDir() && l.imports.known(id, img.Digest.String()) {
		if err := l.Store.Touch(img); !errors.Is(err, fs.ErrNotExist) { // else it was collected just now
			return img, err
		}
	}
	a.tell("importing " + a.path)
	img, err = l.Store.ImportInput(ctx, in, a.name, layout.FetchOptions{Progress: a.progress, Named: a.named})
	if err != nil {
		return nil, client.Invalid("image %s: %v", a.path, err)
	}
	if err := l.Store.Touch(img); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.imports.add(id, img.Digest.String())
	return img, nil
}

// Fetch gets an image, and tells how far it has come.
type Fetch = func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error)

// Importing finds an archive or a layout by its path.
func (l *Library) Importing(in client.ImportRequest) (Fetch, error) {
	if !filepath.IsAbs(in.Path) {
		return nil, client.Invalid("path %q is not absolute", in.Path)
	}
	a := archive{path: in.Path, name: cmp.Or(in.Name, strings.TrimSuffix(filepath.Base(in.Path), ".tar")),
		open: func() (*layout.Input, error) { return layout.OpenInput(in.Path, in.Path) }, tell: func(string) {}}
	own := ""
	a.named = func(name string) { own = name }
	get := l.fetch(func(ctx context.Context, tell func(image.Progress)) (*image.Image, error) {
		a.progress = tell
		return l.importFile(ctx, a)
	})
	return func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error) {
		info, err := get(ctx, tell)
		if in.Name == "" && own != "latest" && !imagename.Same(own, info.Name) {
			info.ArchiveName = own
		}
		return info, err
	}, nil
}

// fetch describes the image that get has got.
func (l *Library) fetch(get func(context.Context, func(image.Progress)) (*image.Image, error)) Fetch {
	return func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error) {
		reused := int64(0)
		img, err := get(ctx, func(p image.Progress) {
			reused = p.Reused
			tell(client.ImageProgress{Layers: p.Layers, LayersDone: p.LayersDone, Size: p.Size, Done: p.Done,
				Reused: p.Reused})
		})
		if err != nil {
			return client.ImageInfo{}, err
		}
		info, err := l.describe(ctx, img)
		info.Reused = reused
		return info, err
	}
}
