package images

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

// Save writes images of the store as one oci-archive, to what begin returns. It calls that when all of them are found,
// and held.
func (l *Library) Save(ctx context.Context, r client.SaveRequest,
	begin func() (to io.Writer, note func(string), err error)) error {
	switch n := len(r.Images); {
	case n == 0:
		return client.Invalid("save: no image given")
	case n > layout.MaxNames:
		return client.Invalid("save: %d images, and an archive has at most %d", n, layout.MaxNames)
	}
	var list []layout.Saved
	for _, name := range r.Images {
		img, release, err := l.toSave(name)
		if err != nil {
			return err
		}
		defer release()
		one := layout.Saved{Digest: img.Digest, Name: img.Name}
		if namedByPath(one.Name) {
			one.Name = "" // it is of this host
		}
		if !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	to, note, err := begin()
	if err != nil {
		return err
	}
	return l.Store.Save(ctx, list, to, layout.SaveOptions{Unsigned: r.Unsigned, Tell: note})
}

// toSave finds an image, and holds it.
func (l *Library) toSave(name string) (*image.Image, func(), error) {
	if filepath.IsAbs(name) {
		return nil, nil, client.Invalid("image %q is a path: give an image by its name, as `freejail images` lists it",
			name)
	}
	img, err := l.imageNamed(name)
	if err != nil {
		return nil, nil, err
	}
	if img.Private {
		return nil, nil, client.Refused("image %q was pulled with the credentials of a job, and an archive would give "+
			"it to all who have that: `freejail pull` it as the host", name)
	}
	release, err := l.Store.Hold(img)
	return img, release, err
}

// Loading finds an archive or a layout by its path, of which all images are imported by their own names.
func (l *Library) Loading(in client.LoadRequest) (
	func(context.Context, func(client.ImageProgress)) (client.LoadResult, error), error) {
	if !filepath.IsAbs(in.Path) {
		return nil, client.Invalid("path %q is not absolute", in.Path)
	}
	return func(ctx context.Context, tell func(client.ImageProgress)) (out client.LoadResult, err error) {
		in.Name = cmp.Or(in.Name, in.Path)
		from, err := layout.OpenInput(in.Path, in.Name)
		if err != nil {
			return out, client.Invalid("image: %v", err)
		}
		defer func() { err = errors.Join(err, from.Close()) }()
		o := layout.FetchOptions{Progress: func(p image.Progress) {
			tell(client.ImageProgress{Layers: p.Layers, LayersDone: p.LayersDone, Size: p.Size, Done: p.Done})
		}}
		var images []*image.Image
		out.Nameless, err = l.Store.ImportEach(ctx, from, o,
			func(own string, take func(string) (*image.Image, error)) error {
				one := client.Loaded{Name: own}
				img, err := l.load(&one, take)
				if err != nil {
					one.Error = client.AsError(err)
				}
				out.Images, images = append(out.Images, one), append(images, img)
				return ctx.Err()
			})
		if err != nil {
			return out, client.Invalid("load: %v", err)
		}
		shared, err := l.sharedLayers()
		if err != nil {
			l.Log.Warn("images that cannot be read", "error", err) // and do not count as sharing
		}
		for i, img := range images {
			if img == nil {
				continue
			}
			if err := l.addUse(ctx, out.Images[i].Image, img, shared); err != nil {
				return out, err
			}
		}
		return out, nil
	}, nil
}

// load imports an image by the name that its archive gives it.
func (l *Library) load(one *client.Loaded, take func(string) (*image.Image, error)) (*image.Image, error) {
	switch {
	case namedByPath(one.Name):
		return nil, client.Invalid("image name %q: file/ and path-sha256/ begin the names that images "+
			"have by the paths of their archives: `freejail images import --name` gives it another one", one.Name)
	case one.Name == "latest":
		return nil, client.Invalid("the archive gives its image no name but \"latest\": `freejail images " +
			"import --name` " +
			"names it")
	}
	if before, err := l.Store.Get(one.Name); one.Name != "" && err == nil {
		one.Was = before.Digest.String()
	}
	img, err := take(one.Name)
	if err != nil {
		return nil, client.Invalid("image %s: %v", one.Name, err)
	}
	if one.Was == img.Digest.String() {
		one.Was = ""
	}
	if one.Was != "" {
		l.Log.Info("an archive has taken the name of another image", "name", one.Name, "was", one.Was,
			"digest", img.Digest)
	}
	if err := l.Store.Touch(img); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	info := imageInfo(img)
	leaveOut(&info)
	one.Image = &info
	return img, nil
}
