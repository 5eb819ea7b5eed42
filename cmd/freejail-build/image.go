package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/progress"
)

const imageHelp = `IMAGE is the path of an OCI archive (tar, also in gzip, zstd or xz) or of an OCI
layout directory, or one of

  HOST/NAME:TAG             in a registry; also HOST/NAME@sha256:...
  oci:DIR[:NAME]            an OCI layout directory
  oci-archive:FILE[:NAME]   an OCI archive
  store:DIR[:NAME]          a store as --store of build has it (not a running daemon's)`

// imageFlags say where images are that a command looks at, and which ones.
type imageFlags struct {
	remoteFlags
	target string
	app    *app
}

func (a *app) imageFlags(c *cobra.Command) *imageFlags {
	f := &imageFlags{app: a}
	f.remoteFlags.add(c)
	c.Flags().StringVar(&f.target, "platform", "", "which of the images, as OS/ARCHITECTURE")
	return f
}

// elsewhere tells what an argument names that is no path.
func elsewhere(arg string) (at registry.Location, is bool, err error) {
	if _, err := os.Stat(arg); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return at, false, nil
	}
	at, err = registry.ParseLocation(arg)
	if err != nil || at.Kind == registry.Remote && !registry.IsReference(arg) {
		return at, false, fmt.Errorf("%s: no such file or directory, and it names no image elsewhere: see --help", arg)
	}
	return at, true, nil
}

// copyTo copies an image of elsewhere to a place on this host.
func (f *imageFlags) copyTo(ctx context.Context, from, to registry.Location, o registry.CopyOptions) (registry.Copied, error) {
	c, err := f.client(from)
	if err != nil {
		return registry.Copied{}, usageError{err}
	}
	bar := progress.New(f.app.messages, "reading "+from.String())
	defer bar.End()
	o.Progress = func(p image.Progress) {
		bar.Set(p.Done, p.Size, fmt.Sprintf("%d of %d blobs", p.LayersDone, p.Layers))
	}
	return c.Copy(ctx, from, to, o)
}

// with gives the image of an argument, and a layout that has it, for as long as
// do takes.
func (f *imageFlags) with(ctx context.Context, arg string, do func(*image.Layout, *image.Image) error) error {
	p, err := platform(f.target)
	if err != nil {
		return err
	}
	at, is, err := elsewhere(arg)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(arg); err == nil && fi.IsDir() {
		l, img, err := image.OpenLayout(arg, p, image.Limits{})
		if err != nil {
			return err
		}
		return errors.Join(do(l, img), l.Close())
	}
	dir, err := os.MkdirTemp("", "freejail-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if is {
		to := registry.Location{Kind: registry.Store, Path: dir}
		done, err := f.copyTo(ctx, at, to, registry.CopyOptions{Platform: p})
		if err != nil {
			return err
		}
		return inStore(dir, func(s *image.Store) (*image.Image, error) { return s.Get(done.Digest.String()) }, do)
	}
	return inStore(dir, func(s *image.Store) (*image.Image, error) { return s.ImportFor(ctx, arg, "", p, nil) }, do)
}

func inStore(dir string, find func(*image.Store) (*image.Image, error), do func(*image.Layout, *image.Image) error) error {
	s, err := image.OpenStore(dir, image.Limits{})
	if err != nil {
		return err
	}
	img, err := find(s)
	if err == nil {
		err = do(&s.Layout, img)
	}
	return errors.Join(err, s.Close())
}

// describe gives what an image says of itself. Of one in a registry nothing else
// is pulled.
func (f *imageFlags) describe(ctx context.Context, arg string, do func(*image.Image) error) error {
	at, is, err := elsewhere(arg)
	if err != nil {
		return err
	}
	if !is || at.Kind != registry.Remote {
		return f.with(ctx, arg, func(_ *image.Layout, img *image.Image) error { return do(img) })
	}
	p, err := platform(f.target)
	if err != nil {
		return err
	}
	c, err := f.client(at)
	if err != nil {
		return usageError{err}
	}
	img, err := c.Describe(ctx, at.Ref, image.Platforms(p))
	if err != nil {
		return err
	}
	return do(img)
}
