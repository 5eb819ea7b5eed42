package task

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/storage"
)

// root is what the root of a task knows of itself: one lies on this host, another on
// a server, for which the kernel has everybody wait while it is away.
type root interface {
	origin
	life
}

// origin is a root before it is there.
type origin interface {
	// fetch has the image brought to this host where it has to be. It is nil where find
	// has to look for itself. What it has begun for prepare goes on until release is
	// called, which is also to be called after an error.
	fetch(ctx context.Context, t *task, auth *client.Auth) (img *image.Image, release func(), err error)
	// find describes the image, which stays until release is called. found is it where
	// it is known already; where a collection took it since, it is looked up again.
	find(ctx context.Context, spec client.TaskSpec, found *image.Image) (img *image.Image, release func(), err error)
	// prepare makes what a storage driver makes the root of; it stays until release is
	// called.
	prepare(ctx context.Context, taskID string, p *plan, store storage.Driver) (release func(), err error)
	// look makes a root for a while, where that can be done without its task.
	look(ctx context.Context, p *plan, do func(root string) error) error
	// bounds are those of a start.
	bounds() bounds
}

// life is a root that there may be.
type life interface {
	// image describes the image of a task that was started.
	image(client.Task) (*image.Image, error)
	// uses tells whether a chain of this host's is under the root.
	uses(chain string, i client.Task) bool
	// trouble tells why the root cannot be read now, and unread why a process may have
	// been unable to; empty where nothing is known.
	trouble() string
	unread() string
	// command bounds the start of a further process of the task. takesCore tells whether
	// cores may be written there.
	command(task string) bounds
	takesCore() bool

	// leave tells that the task's processes are being killed. abandon, that they have
	// had time, and returns how much more they have to end.
	leave() error
	abandon() (time.Duration, error)
	// unmount takes away what is mounted below a directory, with files those whose
	// mounts are on files.
	unmount(dir, files string) error
	// unwind runs what takes the steps of a start back.
	unwind(undo func() error) error
}

// localRoot is a root of this host.
type localRoot struct{ m *Manager }

// fetch has an image unpacked while it arrives.
func (r localRoot) fetch(ctx context.Context, t *task, auth *client.Auth) (*image.Image, func(), error) {
	e := &early{m: r.m, root: r}
	img, err := r.m.Images.Fetch(ctx, t.info.Spec, auth, func(img *image.Image, arriving Unpacker) {
		e.begin(ctx, t.info.Spec, img, arriving)
	})
	if err == nil && img != nil { // nothing collects it until it is held
		t.set(func(i *client.Task) { i.Digest = img.Digest.String() })
	}
	return img, e.end, err
}

func (r localRoot) find(ctx context.Context, spec client.TaskSpec, found *image.Image) (*image.Image, func(), error) {
	return r.m.Images.Hold(ctx, spec, found)
}

// prepare unpacks an image unless it is unpacked.
func (r localRoot) prepare(ctx context.Context, taskID string, p *plan, store storage.Driver) (
	release func(), err error) {
	yield := time.AfterFunc(waitForEarly, func() { r.m.early.yield(p.image) })
	defer yield.Stop()
	unpacker := r.m.Images.Unpacker(p.image)
	return r.unpack(ctx, taskID, p.image, func(tell func(image.Progress)) Apply {
		apply := unpacker(tell)
		return func(ctx context.Context, dir string, first, end int) error {
			yield.Stop() // nobody is waited for
			return apply(ctx, dir, first, end)
		}
	}, store)
}

func (r localRoot) unpack(ctx context.Context, taskID string, img *image.Image, unpacker Unpacker,
	store storage.Driver) (release func(), err error) {
	apply := unpacker(ToldNowAndThen(img.Name, func(text string) { r.m.Event(taskID, "unpacking", text) }))
	var chains []string
	for _, c := range img.Chains {
		chains = append(chains, c.Encoded())
	}
	took := func(error) {} // nothing, where the image is unpacked already
	told := false
	release, err = store.EnsureChain(ctx, chains, func(dir string, first, end int) error {
		if !told {
			told = true
			ctx, took = r.m.Record.Begin(ctx, telemetry.Unpack)
			r.m.Event(taskID, "unpacking", fmt.Sprintf("unpacking %s", img.Name))
		}
		return apply(ctx, dir, first, min(end, len(img.Layers)))
	})
	if took(err); err != nil {
		return nil, fmt.Errorf("unpack %s: %w%s", img.Name, err, lockedBy(err))
	}
	return release, nil
}

// How soon and how often an event has how far an unpacking is. They are variables for
// tests.
var (
	firstTold = 3 * time.Second
	toldEvery = 10 * time.Second
)

// ToldNowAndThen makes a few texts for events of what an unpacking tells often; the name
// is the image's.
func ToldNowAndThen(name string, tell func(string)) func(image.Progress) {
	var next time.Time
	return func(p image.Progress) {
		now := time.Now()
		if next.IsZero() {
			next = now.Add(firstTold)
		}
		if now.Before(next) {
			return
		}
		next = now.Add(toldEvery)
		tell(fmt.Sprintf("unpacking %s: %d of %d layers, %s of %s", name, p.LayersDone, p.Layers,
			units.BytesSize(float64(p.Done)), units.BytesSize(float64(p.Size))))
	}
}

// look leaves what a crash leaves of the root to the next daemon, which sweeps it up.
func (r localRoot) look(ctx context.Context, p *plan, do func(root string) error) (err error) {
	id := "check-" + rand.Text()
	store, err := r.m.Stores("")
	if err != nil {
		return err
	}
	release, err := r.prepare(ctx, id, p, store)
	if err != nil {
		return err
	}
	defer release()
	root, err := store.Create(ctx, p.image.ChainID.Encoded(), id, p.rootOptions())
	if err != nil {
		return err
	}
	defer func() {
		await(context.WithoutCancel(ctx), r.m.stray(id, undo{Op: "root", Arg: store.Name()}).done, awayTime)
	}()
	return do(root)
}

func (localRoot) bounds() bounds { return bounds{} }

func (r localRoot) image(i client.Task) (*image.Image, error) { return r.m.Images.Get(i.Digest) }

func (r localRoot) uses(chain string, i client.Task) bool {
	img, err := r.image(i)
	return err != nil || img.ChainID.Encoded() == chain // what is not known counts
}

func (localRoot) trouble() string                 { return "" }
func (localRoot) unread() string                  { return "" }
func (localRoot) command(string) bounds           { return bounds{} }
func (localRoot) takesCore() bool                 { return true }
func (localRoot) leave() error                    { return nil }
func (localRoot) abandon() (time.Duration, error) { return sweepTime - awayTime, nil }
func (localRoot) unwind(undo func() error) error  { return undo() }

// unmount leaves what others have mounted, a task with allow.mount too, to the removal of the root, which finds that in
// use.
func (localRoot) unmount(dir, files string) error {
	if mount.ReleaseOwn(dir, dir, files) {
		return nil
	}
	return mount.ReleaseBelow(dir, files)
}
