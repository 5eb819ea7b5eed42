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

// from finds the image that FROM names: a path, which is relative to the
// Jailfile's directory, or a name in the store. What looks like a path is one.
func (b *builder) from(ctx context.Context, ref string) (*image.Image, error) {
	file := ref
	if !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(b.jailfile()), file)
	}
	_, err := os.Stat(file)
	isPath := strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../") || filepath.Ext(ref) == ".tar"
	if isPath && err != nil {
		return nil, err
	}
	if !isPath && b.opts.Store != nil {
		img, serr := b.store.Get(ref)
		if serr == nil {
			return img, b.fits(img)
		}
		if !errors.Is(serr, image.ErrNotFound) {
			return nil, serr
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && b.opts.Store == nil:
		return nil, fmt.Errorf("there is no file %s; names of images need a store", file)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w %q, and no file %s", image.ErrNotFound, ref, file)
	case err != nil:
		return nil, err
	}
	name := fmt.Sprintf("freejail-build/%s", filepath.Base(b.dir))
	img, err := b.store.ImportFor(ctx, file, name, b.opts.Platform, nil)
	if err == nil {
		b.temp = append(b.temp, name)
	}
	return img, err
}

func (b *builder) fits(img *image.Image) error {
	want, have := b.opts.Platform, img.Config.Platform
	if want.OS == "" || want.OS == have.OS && want.Architecture == have.Architecture {
		return nil
	}
	return fmt.Errorf("it is for %s/%s, wanted is %s/%s", have.OS, have.Architecture, want.OS, want.Architecture)
}

// finish names the image and writes it out.
func (b *builder) finish(ctx context.Context, c ocispec.Image, name string) (*image.Image, error) {
	switch {
	case b.opts.Tag != "":
		name = b.opts.Tag
	case name == "" && b.opts.Store != nil:
		return nil, errors.New("the image has no name: give a tag, or NAME in the Jailfile")
	case name == "":
		name = "latest"
	}
	img, err := b.store.Put(ctx, name, c, b.layers, nil)
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
