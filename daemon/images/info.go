package images

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

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

// Remove takes a name from an image, or by its digest all names.
func (l *Library) Remove(ref string) (u client.Untagged, err error) {
	d, names, err := l.Store.Untag(ref)
	if errors.Is(err, image.ErrNotFound) {
		err = client.NotFound("%v", err)
	}
	if err == nil && len(names) == 0 {
		err = client.NotFound(
			"image %s has no name to remove; what is stored of it stays as long as tasks run it", d)
	}
	if err != nil {
		return u, err
	}
	u.Digest, u.Names, u.Tasks = d.String(), names, []string{}
	left, err := l.Store.Names(d)
	if err != nil || len(left) > 0 {
		return u, err
	}
	for _, t := range l.Tasks.Alive() {
		if t.Digest == u.Digest {
			u.Tasks = append(u.Tasks, t.Spec.ID)
		}
	}
	return u, nil
}

// Tag gives an image another name.
func (l *Library) Tag(ctx context.Context, r client.TagRequest) (client.ImageInfo, error) {
	if filepath.IsAbs(r.Image) {
		return client.ImageInfo{}, client.Invalid("image %q is a path: `freejail images import --name` names it",
			r.Image)
	}
	if namedByPath(r.Name) {
		return client.ImageInfo{}, client.Invalid("image name %q: file/ and path-sha256/ begin the names that images "+
			"have by the paths of their archives", r.Name)
	}
	if err := image.CheckName(r.Name); err != nil {
		return client.ImageInfo{}, client.Invalid("%v", err)
	}
	img, err := l.imageNamed(r.Image)
	if err != nil {
		return client.ImageInfo{}, err
	}
	if img.Private {
		return client.ImageInfo{}, client.Refused("image %q was pulled with the credentials of a job, and another "+
			"name would give it to all: `freejail pull` it as the host", r.Image)
	}
	release, err := l.Store.Hold(img) // no collection takes what has a name no more
	if err != nil {
		return client.ImageInfo{}, err
	}
	defer release()
	if img, err = l.Store.Tag(img, r.Name); errors.Is(err, layout.ErrPin) {
		err = client.Invalid("%v", err)
	}
	if err != nil {
		return client.ImageInfo{}, err
	}
	return l.describe(ctx, img)
}

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
			out = append(out, client.ImageInfo{Name: broken.Name, Digest: broken.Digest.String(), Tasks: []string{},
				Problem: broken.Error()})
			continue
		}
		if err != nil {
			return nil, err
		}
		info := imageInfo(img)
		if said += saying(&info); said > maxListed {
			leaveOut(&info)
			info.Summary = "(left out of a list of this length)"
		}
		errs = errors.Join(errs, l.addUse(ctx, &info, img, shared))
		out = append(out, info)
	}
	return out, errs
}

// leaveOut takes out what an image says of itself.
func leaveOut(i *client.ImageInfo) {
	i.Summary, i.Usage, i.Parameters, i.Ports, i.Requests = "", "", nil, nil, nil
}

// saying is the length of what an image says of itself.
func saying(i *client.ImageInfo) int {
	n := len(i.Summary) + len(i.Usage)
	for _, s := range slices.Concat(i.Parameters, i.Ports, i.Requests) {
		n += len(s)
	}
	return n
}

// stored goes through all images by name, and then through those that have lost their names while tasks run them.
func (l *Library) stored() iter.Seq2[*image.Image, error] {
	return func(yield func(*image.Image, error) bool) {
		inUse := map[digest.Digest]bool{}
		for _, d := range l.inUse() {
			inUse[d] = true
		}
		for img, err := range l.Store.All() {
			var broken *layout.UnreadableError
			switch {
			case err == nil:
				delete(inUse, img.Digest)
			case errors.As(err, &broken):
				delete(inUse, broken.Digest)
			}
			if !yield(img, err) {
				return
			}
		}
		for d := range inUse {
			img, err := l.Store.Get(d.String())
			if errors.Is(err, image.ErrNotFound) { // its task has just ended, or has its root from elsewhere
				continue
			}
			if !yield(img, err) {
				return
			}
		}
	}
}

// sharedLayers are those that several images have: names of one image count once.
// Images that cannot be read are in the error.
func (l *Library) sharedLayers() (shared map[digest.Digest]bool, errs error) {
	shared, first := map[digest.Digest]bool{}, map[digest.Digest]digest.Digest{}
	for img, err := range l.stored() {
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
func (l *Library) addUse(ctx context.Context, i *client.ImageInfo, img *image.Image,
	shared map[digest.Digest]bool) (err error) {
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
