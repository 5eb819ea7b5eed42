package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/regular"
)

func parseEpoch(text string) (time.Time, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > 1<<40) {
		err = strconv.ErrRange
	}
	return time.Unix(n, 0).UTC(), err
}

// from finds the image that FROM or --from names: a path, which in a Jailfile is
// relative to its directory, and on the command line to the current one, a name in
// the store, or a reference to pull. What looks like a path is one.
func (b *builder) from(ctx context.Context, ref string, wanted ocispec.Platform) (_ *image.Image, err error) {
	ref, file, err := placeOf(ref)
	if err != nil {
		return nil, err
	}
	isName := file == "" && ref != ""
	if !isName && !filepath.IsAbs(file) && b.opts.From == "" {
		file = filepath.Join(b.recipeHome(), file)
	}
	isPath := !isName && isPath(ref)
	in, err := (*layout.Input)(nil), fs.ErrNotExist
	if isPath || !b.names && !isName { // a directory of this name is none of FROM's there
		in, err = b.openBase(file)
	}
	if err == nil {
		defer func() { err = errors.Join(err, in.Close()) }()
	}
	if err == nil {
		if err := b.spare(file, in.Info()); err != nil {
			return nil, err
		}
	}
	if isPath && err != nil {
		return nil, err
	}
	if !isPath && b.opts.Store != nil {
		img, serr := b.stored(ref)
		if serr == nil {
			return img, fits(img, wanted)
		}
		if !errors.Is(serr, image.ErrNotFound) {
			return nil, serr
		}
	}
	switch {
	case err == nil:
		return b.importFile(ctx, in, wanted)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case b.opts.Pull != nil:
		return b.opts.Pull(ctx, b.store, b.inRegistry(ref), wanted)
	case b.opts.Store == nil:
		return nil, fmt.Errorf("no such file %s; names of images need a store", cmp.Or(file, ref))
	}
	return nil, fmt.Errorf("%w %q, and no file %s", image.ErrNotFound, ref, cmp.Or(file, ref))
}

// inRegistry gives a short name of a Containerfile, such as debian:12, the registry
// that other builders mean by it.
func (b *builder) inRegistry(ref string) string {
	full := b.fullName(ref)
	if full != ref {
		b.warn("%s is taken for %s: write the whole name for another registry", ref, full)
	}
	return full
}

func (b *builder) fullName(ref string) string {
	if !b.names || imagename.IsReference(ref) {
		return ref
	}
	full := "docker.io/" + ref
	if !strings.Contains(ref, "/") {
		full = "docker.io/library/" + ref
	}
	if imagename.Repository(full) == full {
		full += ":latest"
	}
	return full
}

// stored finds a name as it is written, or in full.
func (b *builder) stored(ref string) (*image.Image, error) {
	img, err := b.store.Get(ref)
	if full := b.fullName(ref); full != ref && errors.Is(err, image.ErrNotFound) {
		return b.store.Get(full)
	}
	return img, err
}

// registryPrefix begins what is a name of a registry's image and no path.
const registryPrefix = "docker://"

// placeOf splits what a name of an image says of where it is, as other builders
// write it: a path has no ref then, and what is a registry's has no file.
func placeOf(name string) (ref, file string, err error) {
	for _, kind := range []string{"oci-archive:", "docker-archive:", "oci:", "dir:"} {
		if path, ok := strings.CutPrefix(name, kind); ok {
			return "", path, nil
		}
	}
	if strings.HasPrefix(name, "containers-storage:") || strings.HasPrefix(name, "docker-daemon:") {
		return "", "", fmt.Errorf("%s: the images of other programs are not read: save it to an archive, and name that",
			name)
	}
	if ref, ok := strings.CutPrefix(name, registryPrefix); ok {
		return ref, "", nil
	}
	return name, name, nil
}

// isPath tells whether the ref of placeOf can only be a path.
func isPath(ref string) bool {
	return ref == "" || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") ||
		strings.HasPrefix(ref, "../") || filepath.Ext(ref) == ".tar"
}

// openBase opens an archive or a layout, within the context where it lies there.
func (b *builder) openBase(file string) (*layout.Input, error) {
	at, ok := b.inContext(file)
	if !ok {
		return layout.OpenInput(file, file)
	}
	in, err := layout.OpenInputIn(b.context, at, file, b.openOurs)
	if err != nil {
		return nil, contextError(at, err)
	}
	return in, nil
}

// importFile brings an archive or a layout into the store, verified; what the
// cache has of it was verified when it came there.
func (b *builder) importFile(ctx context.Context, in *layout.Input, wanted ocispec.Platform) (*image.Image, error) {
	name := fmt.Sprintf("freejail-build/%s-%d", filepath.Base(b.dir), len(b.temp))
	key, index := b.cache.importKey(in, wanted)
	img, err := b.cache.image(ctx, b.store, key, name)
	if err == nil && img == nil {
		img, err = b.store.ImportInput(ctx, in, name, layout.FetchOptions{Wanted: image.Platforms(wanted),
			Progress: b.told("reading the base image")})
		// The index may be another now, which must not be kept for this one.
		if err == nil && (index == nil || bytes.Contains(index, []byte(img.Digest))) {
			err = b.cache.keepImage(ctx, b.store, key, name)
		}
	}
	if img != nil {
		b.temp = append(b.temp, name)
	}
	return img, err
}

func fits(img *image.Image, want ocispec.Platform) error {
	have := img.Config.Platform
	if want.OS == "" || want.OS == have.OS && want.Architecture == have.Architecture {
		return nil
	}
	return fmt.Errorf("the image is for %s/%s, want %s/%s", have.OS, have.Architecture, want.OS, want.Architecture)
}

// finish names the image and writes it out.
func (b *builder) finish(
	ctx context.Context, c any, layers []ocispec.Descriptor, name string,
) (*image.Image, error) {
	switch {
	case b.opts.Tag != "":
		name = b.opts.Tag
	case name == "" && b.opts.Store != nil:
		return nil, errors.New("the image has no name: give a tag, or NAME in the Jailfile")
	case name == "":
		name = "latest"
	}
	img, err := b.store.PutConfig(ctx, name, c, layers, nil)
	if err != nil || b.opts.Output == "" {
		return img, err
	}
	b.progress("writing %s", b.opts.Output)
	return img, b.write(ctx, name, img.Size)
}

// write puts the image into its place from a name beside it. Others may write to
// the directory too: what is made there is made by its descriptor, and no link
// that stands there is followed.
func (b *builder) write(ctx context.Context, name string, size int64) (err error) {
	count := b.meter("writing "+b.opts.Output, size)
	out := filepath.Clean(b.opts.Output)
	o := &output{name: filepath.Base(out), temp: "." + filepath.Base(out) + "-" + rand.Text()}
	if o.parent, err = regular.Root(filepath.Dir(out)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.parent.Close()) }()
	fi, err := o.parent.Lstat(o.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if strings.HasSuffix(b.opts.Output, "/") || err == nil && fi.IsDir() {
		return o.layout(func(make layout.Maker) error { return b.store.WriteLayoutTo(ctx, name, make) })
	}
	return o.archive(func(w io.Writer) error { return b.store.Export(ctx, name, metered{w, count}) })
}

// output is a file or directory that is made under another name, in the same
// directory, and appears whole.
type output struct {
	parent     *os.Root
	name, temp string
}

// layout replaces only an empty directory.
func (o *output) layout(fill func(layout.Maker) error) error {
	if err := o.parent.Mkdir(o.temp, 0o700); err != nil {
		return err
	}
	err := o.fillDir(fill)
	if err == nil {
		err = o.makeWay()
	}
	if err == nil {
		err = o.parent.Rename(o.temp, o.name)
	}
	if err != nil {
		return errors.Join(err, o.parent.RemoveAll(o.temp))
	}
	return nil
}

// makeWay removes an empty directory, which os.Root does not let be replaced.
func (o *output) makeWay() error {
	fi, err := o.parent.Lstat(o.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%s already exists and is not a directory", o.name)
	}
	if err != nil {
		return err
	}
	err = o.parent.Remove(o.name)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("%s is not empty: give a new or an empty directory", o.name)
	}
	return err
}

func (o *output) fillDir(fill func(layout.Maker) error) error {
	dir, err := o.parent.OpenFile(o.temp, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	err = o.parent.MkdirAll(path.Join(o.temp, "blobs", "sha256"), 0o755)
	if err == nil {
		err = fill(func(name string) (io.WriteCloser, error) {
			return o.parent.OpenFile(path.Join(o.temp, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		})
	}
	if err == nil {
		err = dir.Chmod(0o755)
	}
	return errors.Join(err, dir.Close())
}

// archive replaces what there was in one step.
func (o *output) archive(fill func(io.Writer) error) error {
	f, err := o.parent.OpenFile(o.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = o.parent.Rename(o.temp, o.name)
	}
	if err != nil {
		return errors.Join(err, o.parent.Remove(o.temp))
	}
	return nil
}

// metered is a writer whose bytes are counted.
type metered struct {
	io.Writer
	count func(int)
}

func (m metered) Write(p []byte) (int, error) {
	n, err := m.Writer.Write(p)
	m.count(n)
	return n, err
}
