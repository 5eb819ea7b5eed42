package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

func parseEpoch(text string) (time.Time, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > 1<<40) {
		err = strconv.ErrRange
	}
	return time.Unix(n, 0).UTC(), err
}

// from finds the image that FROM or --from names: a path, which is relative to
// the Jailfile's directory, a name in the store, or a reference to pull. What
// looks like a path is one.
func (b *builder) from(ctx context.Context, ref string, wanted ocispec.Platform) (*image.Image, error) {
	file := ref
	if !filepath.IsAbs(file) {
		file = filepath.Join(b.recipeHome(), file)
	}
	fi, err := os.Stat(file)
	isPath := strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../") || filepath.Ext(ref) == ".tar"
	if isPath && err != nil {
		return nil, err
	}
	if !isPath && b.opts.Store != nil {
		img, serr := b.store.Get(ref)
		if serr == nil {
			return img, fits(img, wanted)
		}
		if !errors.Is(serr, image.ErrNotFound) {
			return nil, serr
		}
	}
	switch {
	case err == nil:
		return b.importFile(ctx, file, fi, wanted)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case b.opts.Pull != nil:
		return b.opts.Pull(ctx, b.store, ref, wanted)
	case b.opts.Store == nil:
		return nil, fmt.Errorf("there is no file %s; names of images need a store", file)
	}
	return nil, fmt.Errorf("%w %q, and no file %s", image.ErrNotFound, ref, file)
}

// importFile brings an archive or a layout into the store, verified; what the
// cache has of it was verified when it came there.
func (b *builder) importFile(ctx context.Context, file string, fi fs.FileInfo, wanted ocispec.Platform) (*image.Image, error) {
	name := fmt.Sprintf("freejail-build/%s-%d", filepath.Base(b.dir), len(b.temp))
	key := b.cache.importKey(file, fi, wanted)
	img, err := b.cache.image(ctx, b.store, key, name)
	if err == nil && img == nil {
		if img, err = b.store.ImportFor(ctx, file, name, wanted, nil); err == nil {
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
	return fmt.Errorf("it is for %s/%s, wanted is %s/%s", have.OS, have.Architecture, want.OS, want.Architecture)
}

// finish names the image and writes it out.
func (b *builder) finish(ctx context.Context, c ocispec.Image, layers []ocispec.Descriptor, name string) (*image.Image, error) {
	switch {
	case b.opts.Tag != "":
		name = b.opts.Tag
	case name == "" && b.opts.Store != nil:
		return nil, errors.New("the image has no name: give a tag, or NAME in the Jailfile")
	case name == "":
		name = "latest"
	}
	img, err := b.store.Put(ctx, name, c, layers, nil)
	if err != nil || b.opts.Output == "" {
		return img, err
	}
	b.progress("writing %s", b.opts.Output)
	if fi, err := os.Stat(b.opts.Output); strings.HasSuffix(b.opts.Output, "/") || err == nil && fi.IsDir() {
		return img, b.writeLayout(ctx, name)
	}
	return img, b.writeArchive(ctx, name)
}

// writeLayout makes the directory beside its place first: rename(2) replaces an
// empty one.
func (b *builder) writeLayout(ctx context.Context, name string) error {
	out := filepath.Clean(b.opts.Output)
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+"-")
	if err != nil {
		return err
	}
	if err = b.store.WriteLayout(ctx, name, dir); err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		if err = os.Rename(dir, out); errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			err = fmt.Errorf("%s is not empty: give a new or an empty directory", out)
		}
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// writeArchive replaces the output in one step.
func (b *builder) writeArchive(ctx context.Context, name string) error {
	f, err := os.CreateTemp(filepath.Dir(b.opts.Output), "."+filepath.Base(b.opts.Output)+"-")
	if err != nil {
		return err
	}
	err = b.store.Export(ctx, name, f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), b.opts.Output)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
