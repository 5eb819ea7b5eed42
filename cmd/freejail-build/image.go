package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
)

const imageHelp = `IMAGE is the path of an archive (tar, also in gzip, bzip2, zstd or xz) or of a
directory: an OCI layout, what docker save or podman save writes, or skopeo's dir:;
or one of

  HOST/NAME:TAG             in a registry; also HOST/NAME@sha256:...
  oci:DIR[:NAME]            an OCI layout directory
  oci-archive:FILE[:NAME]   an OCI archive
  docker-archive:FILE[:NAME], dir:DIR
                            as docker, podman and skopeo write them; to read from
  store:DIR[:NAME]          a store as --store of build has it (not a running daemon's)`

// imageFlags say where images are that a command looks at, and which ones.
type imageFlags struct {
	remoteFlags
	target  ocispec.Platform
	unknown []string // parameters of jails that need not be known
	show    app.Progress
	app     *commands
}

// imageCommand returns a command that looks at n images. More is help beside what
// an image is.
func (a *commands) imageCommand(use, short, more string, n int,
	run func(ctx context.Context, f *imageFlags, args []string) error) *cobra.Command {
	f := &imageFlags{app: a}
	c := app.Command(use, short, cobra.ExactArgs(n), func(ctx context.Context, args []string) error {
		return run(ctx, f, args)
	})
	c.Long = imageHelp + more
	f.remoteFlags.add(c)
	platformFlag(c, &f.target, "which image of an index, as `OS/ARCHITECTURE`")
	return c
}

// locate tells which place an argument names; nil is that it is the path of a
// directory or of a file.
func locate(arg string) (*registry.Location, error) {
	if _, err := os.Stat(arg); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := registry.ParseLocation(arg)
	if err != nil || l.Kind == registry.Remote && !registry.IsReference(arg) {
		return nil, fmt.Errorf("%s: no such file or directory, and not a valid image reference: see --help", arg)
	}
	return &l, nil
}

// copyTo copies what an argument names to a place on this host.
func (f *imageFlags) copyTo(ctx context.Context, from *registry.Location, to registry.Location,
	o registry.CopyOptions) (registry.Copied, error) {
	return f.app.transfer(ctx, &f.remoteFlags, &f.show, "reading "+from.String(), *from, to, o)
}

// load gives the image of an argument and a layout that has it, until done.
func (f *imageFlags) load(ctx context.Context, arg string) (l *layout.Layout, img *image.Image,
	done func() error, err error) {
	at, err := locate(arg)
	if err != nil {
		return nil, nil, nil, err
	}
	if at == nil {
		bar := f.show.Bar(f.app.App, "reading "+arg)
		l, img, err = layout.OpenImage(ctx, arg, f.target, image.Limits{},
			func(p image.Progress) { bar.Set(p.Done, p.Size, "") })
		if bar.End(); err != nil {
			return nil, nil, nil, err
		}
		return l, img, l.Close, nil
	}
	dir, err := os.MkdirTemp("", "freejail-image-")
	if err != nil {
		return nil, nil, nil, err
	}
	to := registry.Location{Kind: registry.Store, Path: dir}
	copied, err := f.copyTo(ctx, at, to, registry.CopyOptions{Platform: f.target})
	var s *layout.Store
	if err == nil {
		s, err = layout.OpenStore(dir, image.Limits{})
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	done = func() error { return errors.Join(s.Close(), os.RemoveAll(dir)) }
	if img, err = s.Get(copied.Digest.String()); err != nil {
		return nil, nil, nil, errors.Join(err, done())
	}
	return s.Layout, img, done, nil
}

// describe gives what an image says of itself. Of one in a registry nothing else
// is pulled.
func (f *imageFlags) describe(ctx context.Context, arg string) (*image.Image, error) {
	at, err := locate(arg)
	if err != nil {
		return nil, err
	}
	if at == nil || at.Kind != registry.Remote {
		_, img, done, err := f.load(ctx, arg)
		if err != nil {
			return nil, err
		}
		return img, done()
	}
	c, err := f.client(*at)
	if err != nil {
		return nil, app.UsageError{Err: err}
	}
	return c.Describe(ctx, at.Ref, image.Platforms(f.target))
}
