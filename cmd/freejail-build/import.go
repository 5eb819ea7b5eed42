package main

import (
	"context"
	"errors"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/build"
)

type importFlags struct {
	outputFlags
	manifest string
	digests  []string
	packages packageFlags
}

func (a *commands) importCmd() *cobra.Command {
	f := &importFlags{}
	c := app.Command("import [flags] -o IMAGE ARCHIVE...",
		"make an image from distribution sets, packages or other archives", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error { return a.importSets(ctx, f, args) })
	c.Long = `Make an image with a layer for each archive: tar, plain or in gzip, zstd or
xz, such as base.txz and lib32.txz of FreeBSD. The image is for FreeBSD on this
host's processor unless --platform says otherwise. Its OS version is that of the
sets, where they tell it.

With --manifest the sets must be those that FreeBSD's MANIFEST file names, with
--digest each must have the digest that is given for it, in their order.

Or make an image of packages of the base system (pkgbase): of a repository or
another directory of packages by --packages, with all that they depend on, or of
the packages (.pkg) that are named. With --fingerprints the repository's catalogue
must be signed by one of these keys; it has the sum of each package. Their scripts
are not run: the command names them.`
	f.add(c)
	c.Flags().StringVar(&f.Tag, "name", "base", "the image's name")
	c.Flags().StringVar(&f.manifest, "manifest", "", "FreeBSD's MANIFEST file, which has the digests of the sets")
	c.Flags().StringArrayVar(&f.digests, "digest", nil, "`sha256:HEX` that an archive must have")
	c.Flags().StringSliceVar(&f.packages.names, "packages", nil,
		"names of packages of a repository, such as FreeBSD-set-minimal-jail, between commas")
	c.Flags().StringVar(&f.packages.fingerprints, "fingerprints", "",
		"a `DIRECTORY` of keys that sign repositories, such as /usr/share/keys/pkgbase-15")
	return c
}

func (a *commands) importSets(ctx context.Context, f *importFlags, args []string) (err error) {
	o, err := f.options(a)
	if err != nil {
		return err
	}
	if f.Output == "" {
		return app.Usagef("no output: add -o IMAGE.tar")
	}
	list, done, err := f.sets(ctx, args, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	img, err := build.Archive(ctx, list, o)
	f.bars.End()
	return a.made(img, err)
}

// sets are the archives of the image, and what removes those that were made for it.
func (f *importFlags) sets(ctx context.Context, args []string, o build.Options) ([]build.Set, func() error, error) {
	if !f.packages.are(args) {
		list, err := sets(args, f.digests, f.manifest)
		return list, func() error { return nil }, err
	}
	if f.manifest != "" || len(f.digests) > 0 {
		return nil, nil, app.Usagef("--manifest and --digest are of distribution sets, not of packages")
	}
	dir, err := os.MkdirTemp(o.TempDir, "packages-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	list, err := f.packages.merge(ctx, args, dir, o)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return list, remove, nil
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
