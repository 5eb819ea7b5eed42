package main

import (
	"context"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/build"
)

func (a *commands) importCmd() *cobra.Command {
	var f outputFlags
	var manifest string
	var digests []string
	c := app.Command("import [flags] -o IMAGE ARCHIVE...", "make an image from distribution sets or other tar archives",
		cobra.MinimumNArgs(1), func(ctx context.Context, args []string) error {
			o, err := f.options(a)
			if err != nil {
				return err
			}
			if f.Output == "" {
				return app.Usagef("no output: add -o IMAGE.tar")
			}
			sets, err := sets(args, digests, manifest)
			if err != nil {
				return err
			}
			img, err := build.Archive(ctx, sets, o)
			f.bars.End()
			return a.made(img, err)
		})
	c.Long = `Make an image with a layer for each archive: tar, plain or in gzip, zstd or
xz, such as base.txz and lib32.txz of FreeBSD. The image is for FreeBSD on this
host's processor unless --platform says otherwise. Its OS version is that of the
sets, where they tell it.

With --manifest the sets must be those that FreeBSD's MANIFEST file names, with
--digest each must have the digest that is given for it, in their order.`
	f.add(c)
	c.Flags().StringVar(&f.Tag, "name", "base", "the image's name")
	c.Flags().StringVar(&manifest, "manifest", "", "FreeBSD's MANIFEST file, which has the digests of the sets")
	c.Flags().StringArrayVar(&digests, "digest", nil, "`sha256:HEX` that an archive must have")
	return c
}

func sets(files, digests []string, manifest string) ([]build.Set, error) {
	out := make([]build.Set, len(files))
	for i, file := range files {
		out[i].File = file
	}
	if len(digests) > len(files) {
		return nil, app.Usagef("%d --digest for %d archives", len(digests), len(files))
	}
	for i, text := range digests {
		d, err := digest.Parse(text)
		if err != nil || d.Algorithm() != digest.SHA256 {
			return nil, app.Usagef("--digest %s: expected sha256: and 64 hexadecimal digits", text)
		}
		out[i].Digest = d
	}
	if manifest == "" {
		return out, nil
	}
	return out, build.ReadManifest(manifest, out)
}
