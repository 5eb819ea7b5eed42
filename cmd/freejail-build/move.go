package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

const locationHelp = `SRC and DST are each one of

  HOST/NAME:TAG             in a registry; also HOST/NAME@sha256:...
  oci:DIR[:NAME]            an OCI layout directory
  oci-archive:FILE[:NAME]   an OCI archive
  docker-archive:FILE[:NAME], dir:DIR
                            as docker, podman and skopeo write them; to read from
  store:DIR[:NAME]          a store as --store of build has it (not a running daemon's)

Credentials are those of podman login and docker login: $REGISTRY_AUTH_FILE,
containers/auth.json, ~/.docker/config.json with its credential helpers; or
--auth-file. HTTPS is used except with hosts that --plain-http names, and with
registries of this host (localhost, 127.0.0.1) that do not speak it; to these
credentials are sent with --plain-http only.`

// remoteFlags say how registries are reached.
type remoteFlags struct{ remote.Flags }

func (f *remoteFlags) add(c *cobra.Command) { f.Add(c) }

// client has settings for the registries that are named.
func (f *remoteFlags) client(named ...registry.Location) (*registry.Client, error) {
	return f.Client("freejail-build", named...)
}

// pull has a build's bases come from registries.
func (f *remoteFlags) pull(ctx context.Context, into *layout.Store, ref string, p ocispec.Platform,
	tell func(image.Progress)) (*image.Image, error) {
	if !registry.IsReference(ref) {
		return nil, fmt.Errorf("%w %q: no such file, not in the store, and not a registry reference (HOST/NAME:TAG)",
			image.ErrNotFound, ref)
	}
	r, err := registry.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	c, err := f.client(registry.Location{Kind: registry.Remote, Ref: r})
	if err != nil {
		return nil, err
	}
	o := registry.PullOptions{FetchOptions: layout.FetchOptions{Progress: tell}}
	if p.OS != "" {
		o.Wanted = []ocispec.Platform{p}
	}
	return c.Pull(ctx, into, r, o)
}

type copyFlags struct {
	remoteFlags
	registry.CopyOptions
	progress app.Progress
}

func (f *copyFlags) add(c *cobra.Command) {
	f.remoteFlags.add(c)
	f.progress.Flags(c.Flags())
	c.Flags().BoolVar(&f.All, "all", false, "copy an index with all its images, not one of them")
	platformFlag(c, &f.Platform, "which image of an index, as `OS/ARCHITECTURE` (default: this host's)")
	c.Flags().BoolVar(&f.Unsigned, "no-signatures", false, "do not copy signatures and approvals")
	c.Flags().BoolVar(&f.Referrers, "referrers", false, "also copy everything else that refers to the image")
}

func (a *commands) copyCmd() *cobra.Command {
	f := &copyFlags{}
	c := app.Command("copy [flags] SRC DST", "copy an image between registries, layouts, archives and stores",
		cobra.ExactArgs(2), func(ctx context.Context, args []string) error {
			src, bad := registry.ParseLocation(args[0])
			dst, worse := registry.ParseLocation(args[1])
			if _, err := os.Stat(args[0]); bad != nil && err == nil {
				src, bad = place(args[0])
			}
			if err := cmp.Or(bad, worse); err != nil {
				return app.UsageError{Err: err}
			}
			return a.copy(ctx, f, src, dst)
		})
	c.Long = locationHelp + `

What the destination has is not copied again. Signatures and approvals are copied
too; from a store only those of the image, not of an index that it came from.
The digest of the image is printed to standard output.`
	f.add(c)
	return c
}

func (a *commands) pushCmd() *cobra.Command {
	f := &copyFlags{}
	c := app.Command("push [flags] IMAGE REFERENCE", "push an image to a registry", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			ref, err := registry.ParseReference(args[1])
			if err != nil {
				return app.UsageError{Err: err}
			}
			src, err := place(args[0])
			if err != nil {
				return err
			}
			return a.copy(ctx, f, src, registry.Location{Kind: registry.Remote, Ref: ref})
		})
	c.Long = `IMAGE is an OCI archive or layout by its path, or as SRC below. REFERENCE is
HOST/NAME:TAG.

` + locationHelp
	f.add(c)
	return c
}

// place is where an image is that is copied or signed: as ParseLocation reads it, or
// the path of an archive or a layout.
func place(arg string) (registry.Location, error) {
	l, err := registry.ParseLocation(arg)
	if err == nil && (l.Kind != registry.Remote || strings.Contains(arg, ":") && registry.IsReference(arg)) {
		return l, nil
	}
	fi, err := os.Stat(arg)
	switch {
	case err != nil && strings.Contains(arg, ":"):
		return l, app.Usagef("%s: not a valid image reference, and no such file", arg)
	case err == nil && fi.IsDir():
		return registry.Location{Kind: registry.Layout, Path: arg}, nil
	}
	return registry.Location{Kind: registry.Archive, Path: arg}, err
}

func (a *commands) pullCmd() *cobra.Command {
	f := &copyFlags{}
	var output string
	c := app.Command("pull [flags] -o IMAGE REFERENCE", "pull an image from a registry into an archive or a directory",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
			ref, err := registry.ParseReference(args[0])
			if err != nil {
				return app.UsageError{Err: err}
			}
			switch {
			case output == "":
				return app.Usagef("no output: add -o IMAGE.tar")
			case strings.Contains(output, ":"):
				return app.Usagef("-o %s: a path with a colon is not supported here", output)
			}
			dst := registry.Location{Kind: registry.Archive, Path: output}
			if strings.HasSuffix(output, "/") {
				dst = registry.Location{Kind: registry.Layout, Path: strings.TrimRight(output, "/")}
			}
			return a.copy(ctx, f, registry.Location{Kind: registry.Remote, Ref: ref}, dst)
		})
	c.Long = "REFERENCE is HOST/NAME:TAG or HOST/NAME@sha256:...\n\n" + locationHelp
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "", outputHelp)
	return c
}

// transfer copies an image and shows how far it is.
func (a *commands) transfer(ctx context.Context, f *remoteFlags, show *app.Progress, title string,
	from, to registry.Location, o registry.CopyOptions) (registry.Copied, error) {
	c, err := f.client(from, to)
	if err != nil {
		return registry.Copied{}, app.UsageError{Err: err}
	}
	bars := show.Bars(a.App)
	defer bars.End()
	o.Bytes = bars.Set
	o.Progress = func(p image.Progress) {
		bars.Set(fmt.Sprintf("%s, %d of %d blobs", title, p.LayersDone, p.Layers), p.Done, p.Size)
	}
	return c.Copy(ctx, from, to, o)
}

func (a *commands) copy(ctx context.Context, f *copyFlags, src, dst registry.Location) error {
	done, err := a.transfer(ctx, &f.remoteFlags, &f.progress, "copying "+src.String(), src, dst, f.CopyOptions)
	if err != nil {
		return err
	}
	if !f.progress.Quiet {
		printable.Fprintf(a.Messages, "%s is at %s\n", cmp.Or(done.Was, "the image"), dst)
		if done.Attached > 0 {
			printable.Fprintf(a.Messages, "with %d signatures, approvals and referrers\n", done.Attached)
		}
	}
	return a.printImage(done.Name, done.Digest)
}
