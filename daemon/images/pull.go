package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/imagename"
)

// defaultPullTimeout is for a task that says none.
const defaultPullTimeout = 5 * time.Minute

// maxPullTimeout bounds that of a task, whose pull takes a turn from others.
const maxPullTimeout = 24 * time.Hour

// tellEvery is how often a task hears how far its pull has come.
const tellEvery = 10 * time.Second

// imageNamed finds an image of the store by a name, a digest, or a reference.
func (l *Library) imageNamed(name string) (*image.Image, error) {
	img, err := l.Store.Get(name)
	if err == nil && strings.HasPrefix(name, "sha256:") {
		return l.wellNamed(img)
	}
	if !errors.Is(err, image.ErrNotFound) {
		return img, err
	}
	ref, remote, rerr := l.InForce().Reference(name)
	if rerr != nil {
		return nil, rerr
	}
	if !remote {
		return nil, client.NotFound("image %q is not on this host, and names no registry%s%s: "+
			"import it with `freejail images import ARCHIVE`, give the archive's absolute path, or write HOST/NAME:TAG",
			name, image.DigestHint(name), l.likeNamed(name))
	}
	if img, err = l.Store.Get(ref.Name()); errors.Is(err, image.ErrNotFound) {
		return nil, client.NotFound("image %q is not on this host%s: `freejail pull %s`", name, image.DigestHint(name),
			ref)
	}
	return img, err
}

// likeNamed says which image with another tag everybody has here, of the same repository.
func (l *Library) likeNamed(name string) string {
	repository := imagename.Canonical(imagename.Repository(name))
	for img, err := range l.Store.All() {
		if err != nil || img.Private || namedByPath(img.Name) {
			continue // one that cannot be read is no help
		}
		if imagename.Canonical(imagename.Repository(img.Name)) == repository {
			return fmt.Sprintf(" (there is %q)", img.Name)
		}
	}
	return ""
}

// wellNamed is an image that was found by its digest, by a name that somebody has
// given it for everybody: an archive of the same content, run by its path, must
// not take away what the policy says of that name.
func (l *Library) wellNamed(img *image.Image) (*image.Image, error) {
	names, err := l.Store.Names(img.Digest)
	if err != nil || !img.Private && !namedByPath(img.Name) {
		return img, err
	}
	for _, name := range names {
		if namedByPath(name) {
			continue
		}
		other, err := l.Store.Get(name)
		if err == nil && other.Digest == img.Digest && !other.Private {
			return other, nil
		}
		if err != nil && !errors.Is(err, image.ErrNotFound) { // else it was forgotten just now
			return nil, err
		}
	}
	return img, nil
}

// Fetch finds a task's image by its name, in a registry if it is not there or the task
// wants it anew; see task.Images.
func (l *Library) Fetch(ctx context.Context, spec client.TaskSpec, auth *client.Auth,
	arriving func(*image.Image, task.Unpacker)) (*image.Image, error) {
	if spec.Image == "" || filepath.IsAbs(spec.Image) {
		return nil, nil
	}
	var cred *registry.Credential
	if auth != nil {
		cred = &registry.Credential{Username: auth.Username, Password: auth.Password}
	}
	if strings.HasPrefix(spec.Image, "sha256:") && digest.Digest(spec.Image).Validate() != nil {
		return nil, client.Invalid("image %q: a task's digest must be given in full: "+
			"another image may have the same first digits", spec.Image)
	}
	if !spec.ForcePull {
		img, err := l.imageNamed(spec.Image)
		if err == nil {
			return img, l.mayStart(ctx, spec, img, cred)
		}
		if !client.IsNotFound(err) {
			return nil, err
		}
	}
	ref, remote, err := l.InForce().Reference(spec.Image)
	if err == nil && !remote && spec.ForcePull {
		err = client.Invalid("force_pull: image %q names no registry, "+
			"and default_registry is not set in the host configuration", spec.Image)
	}
	if err != nil || !remote {
		return nil, err // the start will say that there is no such image
	}
	o := registry.PullOptions{FetchOptions: layout.FetchOptions{Pulled: true, Private: cred != nil}, Credential: cred}
	o.Tell = func(text string) { l.Tell(spec.ID, "pulling", text) }
	o.Arriving = func(img *image.Image, layers *layout.Arriving) { arriving(img, unpacker(layers, img)) }
	l.Tell(spec.ID, "pulling", "pulling "+ref.String())
	last, reused := time.Now(), int64(0)
	o.Progress = func(p image.Progress) {
		reused = p.Reused
		if time.Since(last) >= tellEvery {
			last = time.Now()
			l.Tell(spec.ID, "pulling", progressText(ref, p))
		}
	}
	timeout := spec.PullTimeout
	if time.Duration(timeout) > maxPullTimeout {
		timeout = client.Duration(maxPullTimeout)
		l.Tell(spec.ID, "pulling", fmt.Sprintf("image_pull_timeout is over the limit: the pull ends after %s",
			maxPullTimeout))
	}
	img, err := l.pull(ctx, ref, timeout, o)
	if err != nil {
		return nil, err
	}
	l.allowances.add(img, cred)
	l.Tell(spec.ID, "pulled", fmt.Sprintf("%s is %s%s", ref, img.Digest, reusedText(reused, img.Size)))
	return img, nil
}

func progressText(ref registry.Reference, p image.Progress) string {
	text := fmt.Sprintf("pulling %s: %d of %d layers, %s of %s", ref, p.LayersDone, p.Layers,
		units.BytesSize(float64(p.Done)), units.BytesSize(float64(p.Size)))
	if p.Reused > 0 {
		text += fmt.Sprintf(" (%s reused)", units.BytesSize(float64(p.Reused)))
	}
	return text
}

// reusedText is empty where nothing was in other layers.
func reusedText(reused, size int64) string {
	if reused == 0 {
		return ""
	}
	return fmt.Sprintf("; %s of %s were reused from other layers of this host", units.BytesSize(float64(reused)),
		units.BytesSize(float64(size)))
}

func (l *Library) pull(ctx context.Context, ref registry.Reference, timeout client.Duration,
	o registry.PullOptions) (*image.Image, error) {
	o.Approvals = l.wantedApprovals()
	limit := cmp.Or(time.Duration(timeout), defaultPullTimeout)
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reused, tell := int64(0), o.Progress
	o.Progress = func(p image.Progress) {
		if reused = p.Reused; tell != nil {
			tell(p)
		}
	}
	within, took := l.Record.Begin(within, telemetry.Pull, "freejail.image", ref.String())
	img, err := l.InForce().Registries.Pull(within, l.Store, ref, o)
	took(err)
	l.Record.Reused(reused)
	switch {
	case err == nil:
		return img, l.Store.Touch(img)
	case ctx.Err() == nil && within.Err() != nil:
		return nil, client.Unavailable("pull %s: it took longer than %s (image_pull_timeout); "+
			"what came is kept, and the next pull goes on from there", ref, limit)
	case errors.Is(err, registry.ErrNotFound):
		return nil, client.NotFound("%v", err)
	}
	return nil, client.Unavailable("%v", err)
}

// Pulling finds where an image is to be pulled from.
func (l *Library) Pulling(in client.PullRequest) (Fetch, error) {
	ref, remote, err := l.InForce().Reference(in.Ref)
	if err == nil && !remote {
		err = client.Invalid(
			"%q names no registry: give HOST/NAME:TAG, or set default_registry in the host configuration",
			in.Ref)
	}
	var sources []client.ImageSource
	get := l.fetch(func(ctx context.Context, tell func(image.Progress)) (*image.Image, error) {
		o := registry.PullOptions{FetchOptions: layout.FetchOptions{Progress: tell,
			Tell: func(text string) { l.Tell("", "pulling", text) }}}
		o.Sources = func(list []registry.Source) {
			for _, s := range list {
				sources = append(sources, client.ImageSource(s))
			}
		}
		return l.pull(ctx, ref, in.Timeout, o)
	})
	return func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error) {
		info, err := get(ctx, tell)
		info.Sources = sources
		return info, err
	}, err
}
