// Package images has the images of one host: archives that tasks name by their
// paths, pulls, what an image is and takes, the collection of garbage, and exports
// for the roots of other hosts.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/storage"
)

// Host is what images need of their host.
type Host struct {
	Config      host.Config
	Log         hclog.Logger
	Descriptors *mount.Descriptors
	// InForce is the policy with its registries and signers, as the host's file has
	// them now.
	InForce func() *host.InForce
	// Stores are the storage drivers in use.
	Stores func() []storage.Driver
	// Tell tells something of a task by its id; of the host where that is empty.
	Tell func(task, kind, message string)
}

// Tasks are those that use the images; see task.Manager.
type Tasks interface {
	Alive() []client.Task
	UsesChain(chain string) bool
	Sweep(ctx context.Context, owner string) (forgotten int, err error)
}

// Library has the images of a host.
type Library struct {
	Host
	Store    *layout.Store
	Exporter *nfsroot.Exporter // nil where nothing is exported
	Tasks    Tasks             // to be there before the first request

	imports    importCache
	allowances allowances
}

// Open opens the store in a directory. What it has set aside is in Store.Aside.
func Open(dir string, h Host) (*Library, error) {
	store, err := layout.OpenStore(dir, h.Config.Limits.Image)
	if err != nil {
		return nil, err
	}
	l := &Library{Host: h, Store: store}
	if e := h.Config.NFS.Export; e != nil {
		l.Exporter = nfsroot.NewExporter(*e)
	}
	store.Held = l.inUse
	return l, nil
}

// Close lets go of the store.
func (l *Library) Close() error { return l.Store.Close() }

// importCache knows which archives were imported and have not changed since,
// so that a second start does not read the archive again.
type importCache struct {
	locks keylock.Map // of paths
	mu    sync.Mutex
	seen  map[regular.ID]string // -> image digest
}

// Resolve finds a task's image in the store; a path is imported first.
func (l *Library) Resolve(ctx context.Context, spec client.TaskSpec) (*image.Image, error) {
	if spec.Image == "" {
		return nil, client.Invalid("no image given")
	}
	if !filepath.IsAbs(spec.Image) {
		return l.imageNamed(spec.Image)
	}
	// A path has no say in names: else a job's web.tar would become the image
	// web, with all that the policy permits it.
	path := filepath.Clean(spec.Image)
	open := func() (*layout.Input, error) { return l.openImage(spec, path) }
	return l.importPath(ctx, path, open, PathName(path), func(stage string) { l.Tell(spec.ID, "pulling", stage) }, nil)
}

// openImage opens a task's archive or layout where confined finds it.
func (l *Library) openImage(spec client.TaskSpec, path string) (*layout.Input, error) {
	place, real, err := task.Confined(spec, path)
	if err != nil {
		return nil, err
	}
	if task.Within(l.Config.StateDir, real) {
		return nil, errors.Join(client.Invalid("%s lies in the state directory %s, where nobody's image is read from: "+
			"give the image's name, as `freejail images` lists it", path, l.Config.StateDir), place.Close())
	}
	release, err := l.Descriptors.Use()
	if err != nil {
		return nil, errors.Join(err, place.Close())
	}
	in, err := layout.OpenInput(l.Descriptors.Path(place), path)
	return in, errors.Join(err, release(), place.Close())
}

// Check refuses a job the names that images have by the paths of their archives: an
// archive that one job could read is not for every other.
func (*Library) Check(spec client.TaskSpec) error {
	if spec.Owner != "cli" && namedByPath(spec.Image) {
		return client.Invalid("image %q is a name that freejail gives an image by its archive's path: give the archive's absolute path", spec.Image)
	}
	return nil
}

// Hold resolves a task's image, unless it was found already and is still there. One
// that goes before it is held is resolved again.
func (l *Library) Hold(ctx context.Context, spec client.TaskSpec, found *image.Image) (img *image.Image, release func(), err error) {
	img, release, err = found, nil, image.ErrNotFound
	if found != nil {
		release, err = l.Store.Hold(found)
	}
	for range 100 { // a collection may come between, again and again
		if !errors.Is(err, image.ErrNotFound) {
			break
		}
		if img, err = l.Resolve(ctx, spec); err != nil {
			return nil, nil, err
		}
		release, err = l.Store.Hold(img)
	}
	return img, release, err
}

// Get finds an image of the store by its name or digest.
func (l *Library) Get(name string) (*image.Image, error) { return l.Store.Get(name) }

// Unpack returns what applies the layers of an image from first to before end.
func (l *Library) Unpack(img *image.Image) func(ctx context.Context, dir string, first, end int) error {
	return unpack.New(l.Store, img, nil).Apply
}

// inUse are those of tasks that have not ended.
func (l *Library) inUse() (out []digest.Digest) {
	for _, t := range l.Tasks.Alive() {
		if t.Digest != "" {
			out = append(out, digest.Digest(t.Digest))
		}
	}
	return out
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

func (l *Library) importPath(ctx context.Context, path string, open func() (*layout.Input, error), name string, tell func(string), progress func(image.Progress)) (img *image.Image, err error) {
	// Who wants the same archive waits and finds it imported.
	unlock, err := l.imports.locks.Lock(ctx, path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	in, err := open()
	if err != nil {
		return nil, client.Invalid("image: %v", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	id := regular.IDOf(path, in.Info())
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(path), ".tar")
	}
	l.imports.mu.Lock()
	digest, hit := l.imports.seen[id]
	l.imports.mu.Unlock()
	if hit && !in.Info().IsDir() {
		if img, err := l.Store.Get(name); err == nil && img.Digest.String() == digest {
			if err := l.Store.Touch(img); !errors.Is(err, fs.ErrNotExist) { // else it was collected just now
				return img, err
			}
		}
	}
	tell("importing " + path)
	img, err = l.Store.ImportInput(ctx, in, name, layout.FetchOptions{Progress: progress})
	if err != nil {
		return nil, client.Invalid("image %s: %v", path, err)
	}
	if err := l.Store.Touch(img); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.imports.mu.Lock()
	defer l.imports.mu.Unlock()
	if l.imports.seen == nil || len(l.imports.seen) > 1000 {
		l.imports.seen = map[regular.ID]string{}
	}
	l.imports.seen[id] = img.Digest.String()
	return img, nil
}

// Fetch gets an image, and tells how far it has come.
type Fetch = func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error)

// Importing finds an archive or a layout by its path.
func (l *Library) Importing(in client.ImportRequest) (Fetch, error) {
	if !filepath.IsAbs(in.Path) {
		return nil, client.Invalid("path %q is not absolute", in.Path)
	}
	open := func() (*layout.Input, error) { return layout.OpenInput(in.Path, in.Path) }
	return l.fetch(func(ctx context.Context, tell func(image.Progress)) (*image.Image, error) {
		return l.importPath(ctx, in.Path, open, in.Name, func(string) {}, tell)
	}), nil
}

// fetch describes the image that get has got.
func (l *Library) fetch(get func(context.Context, func(image.Progress)) (*image.Image, error)) Fetch {
	return func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error) {
		img, err := get(ctx, func(p image.Progress) {
			tell(client.ImageProgress{Layers: p.Layers, LayersDone: p.LayersDone, Size: p.Size, Done: p.Done})
		})
		if err != nil {
			return client.ImageInfo{}, err
		}
		return l.describe(ctx, img)
	}
}

// Info describes one image; a path is imported first.
func (l *Library) Info(ctx context.Context, ref string) (client.ImageInfo, error) {
	img, err := l.Resolve(ctx, client.TaskSpec{Image: ref})
	if err != nil {
		return client.ImageInfo{}, err
	}
	return l.describe(ctx, img)
}

func (l *Library) describe(ctx context.Context, img *image.Image) (client.ImageInfo, error) {
	shared, err := l.sharedLayers()
	if err != nil {
		l.Log.Warn("images that cannot be read", "error", err) // and do not count as sharing
	}
	info := imageInfo(img)
	err = l.addUse(ctx, &info, img, shared)
	return info, err
}

// Remove takes a name from an image.
func (l *Library) Remove(ref string) error { return l.Store.Remove(ref) }

// maxListed bounds what images say of themselves in one list, in bytes. Of those
// beyond it the list has the names and the numbers.
const maxListed = 16 << 20

// List describes all images.
func (l *Library) List(ctx context.Context) ([]client.ImageInfo, error) {
	shared, _ := l.sharedLayers() // its errors come again
	var errs error
	out, said := []client.ImageInfo{}, 0
	for img, err := range l.Store.All() {
		var broken *layout.UnreadableError
		if errors.As(err, &broken) {
			out = append(out, client.ImageInfo{Name: broken.Name, Digest: broken.Digest.String(), Tasks: []string{}, Problem: broken.Error()})
			continue
		}
		if err != nil {
			return nil, err
		}
		info := imageInfo(img)
		if said += saying(&info); said > maxListed {
			info.Summary, info.Usage, info.Parameters, info.Ports, info.Requests = "(left out of a list of this length)", "", nil, nil, nil
		}
		errs = errors.Join(errs, l.addUse(ctx, &info, img, shared))
		out = append(out, info)
	}
	return out, errs
}

// saying is the length of what an image says of itself.
func saying(i *client.ImageInfo) int {
	n := len(i.Summary) + len(i.Usage)
	for _, s := range slices.Concat(i.Parameters, i.Ports, i.Requests) {
		n += len(s)
	}
	return n
}

// sharedLayers are those that several images have: names of one image count once.
// Images that cannot be read are in the error.
func (l *Library) sharedLayers() (shared map[digest.Digest]bool, errs error) {
	shared, first := map[digest.Digest]bool{}, map[digest.Digest]digest.Digest{}
	for img, err := range l.Store.All() {
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		for _, l := range img.Layers {
			if _, known := first[l.Digest]; !known {
				first[l.Digest] = img.Digest
			}
			if first[l.Digest] != img.Digest {
				shared[l.Digest] = true
			}
		}
	}
	return shared, errs
}

// addUse tells what an image takes on this host, who runs it, and who signed it.
func (l *Library) addUse(ctx context.Context, i *client.ImageInfo, img *image.Image, shared map[digest.Digest]bool) (err error) {
	for _, l := range img.Layers {
		if shared[l.Digest] {
			i.Shared += l.Size
		}
	}
	i.Signers, i.Tasks = l.Signers(img, l.InForce()), []string{}
	for _, t := range l.Tasks.Alive() {
		if t.Digest == i.Digest {
			i.Tasks = append(i.Tasks, t.Spec.ID)
		}
	}
	i.Unpacked, err = l.unpackedSize(ctx, img.ChainID.Encoded())
	return err
}

func imageInfo(img *image.Image) client.ImageInfo {
	m := img.Manifest
	i := client.ImageInfo{Name: img.Name, Digest: img.Digest.String(), OS: img.Config.OS, Arch: img.Config.Architecture,
		Size: img.Size, Created: img.Created, Summary: m.Summary, Usage: m.Usage}
	for _, p := range m.Parameters {
		text := p.Name
		if p.Required {
			text += " (required)"
		} else if p.Default != nil {
			text += fmt.Sprintf(" (default %q)", *p.Default)
		}
		i.Parameters = append(i.Parameters, text+": "+p.Description)
	}
	for _, p := range m.Ports {
		i.Ports = append(i.Ports, fmt.Sprintf("%s %d/%s", p.Name, p.Port, p.Protocol))
	}
	if reqs, err := task.Requests(img); err == nil {
		for _, r := range reqs {
			i.Requests = append(i.Requests, r.String())
		}
	}
	return i
}

// Signers are those whose signature of an image counts. The log tells where signatures
// cannot be read: the image then has none.
func (l *Library) Signers(img *image.Image, now *host.InForce) []string {
	list, err := now.Signers.Of(l.Store, img)
	if err != nil {
		l.Log.Error("signatures", "image", img.Name, "error", err)
	}
	return list
}
