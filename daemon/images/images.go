// Package images has the images of one host: archives that tasks name by their
// paths, pulls, what an image is and takes, the collection of garbage, and exports
// for the roots of other hosts.
package images

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/internal/mount"
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
	Record  *telemetry.Recorder // nil where nothing is counted
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
	seeking    keylock.Map // digests whose approvals are asked for
	sought     sync.Map    // of those: when that was done
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
	store.Held, store.Trusted = l.inUse, l.trusted
	return l, nil
}

// Close lets go of the store.
func (l *Library) Close() error { return l.Store.Close() }

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
	return l.importFile(ctx, archive{path: path, name: PathName(path),
		open: func() (*layout.Input, error) { return l.openImage(spec, path) },
		tell: func(stage string) { l.Tell(spec.ID, "pulling", stage) }})
}

// openImage opens a task's archive or layout where confined finds it.
func (l *Library) openImage(spec client.TaskSpec, path string) (*layout.Input, error) {
	place, real, err := task.Confined(spec, path)
	if err != nil {
		return nil, err
	}
	if task.Within(l.Config.StateDir, real) {
		return nil, errors.Join(client.Invalid("%s lies in the state directory %s, from which no image is read: "+
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
		return client.Invalid("image %q is a name that freejail gives an image by its archive's path: "+
			"give the archive's absolute path", spec.Image)
	}
	return nil
}

// Hold resolves a task's image, unless it was found already and is still there. One
// that goes before it is held is resolved again.
func (l *Library) Hold(ctx context.Context, spec client.TaskSpec, found *image.Image) (
	img *image.Image, release func(), err error) {
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

// Unpacker unpacks an image that is here.
func (l *Library) Unpacker(img *image.Image) task.Unpacker { return unpacker(l.Store, img) }

func unpacker(from unpack.Source, img *image.Image) task.Unpacker {
	return func(tell func(image.Progress)) task.Apply { return unpack.New(from, img, tell).Apply }
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

// Signers are those whose signature of an image counts. The log tells where signatures
// cannot be read: the image then has none.
func (l *Library) Signers(img *image.Image, now *host.InForce) []string {
	list, err := now.Signers.Of(l.Store, img)
	if err != nil {
		l.Log.Error("signatures", "image", img.Name, "error", err)
	}
	return list
}
