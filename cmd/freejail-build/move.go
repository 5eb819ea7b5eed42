package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

const locationHelp = `SRC and DST are each one of

  HOST/NAME:TAG             in a registry; also HOST/NAME@sha256:...
  oci:DIR[:NAME]            an OCI layout directory
  oci-archive:FILE[:NAME]   an OCI archive
  store:DIR[:NAME]          a store as --store of build has it (not a running daemon's)

Credentials are those of podman login and docker login: $REGISTRY_AUTH_FILE,
containers/auth.json, ~/.docker/config.json with its credential helpers; or
--auth-file. HTTPS is spoken but with hosts that --plain-http names.`

// remoteFlags say how registries are reached.
type remoteFlags struct {
	plain    []string
	caFile   string
	authFile string
}

func (f *remoteFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.plain, "plain-http", nil, "a registry, as HOST or HOST:PORT, with which HTTP is spoken; may be repeated")
	c.Flags().StringVar(&f.caFile, "ca-file", "", "certificates in PEM to be trusted beside the system's")
	c.Flags().StringVar(&f.authFile, "auth-file", "", "credentials in docker's or podman's format")
}

// client has settings for the registries that are named.
func (f *remoteFlags) client(named ...registry.Location) (*registry.Client, error) {
	cfg := registry.Config{UserAgent: "freejail-build", AuthFiles: registry.UserAuthFiles()}
	if f.authFile != "" {
		cfg.AuthFiles = []string{f.authFile}
	}
	hosts := map[string]bool{}
	for _, h := range f.plain {
		hosts[h] = true
	}
	if f.caFile != "" {
		for _, l := range named {
			if _, plain := hosts[l.Ref.Host]; l.Kind == registry.Remote && !plain {
				hosts[l.Ref.Host] = false
			}
		}
	}
	for name, plain := range hosts {
		h := registry.Host{Name: name, PlainHTTP: plain}
		if !plain {
			h.CAFile = f.caFile
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	return registry.NewClient(cfg)
}

// pull has a build's bases come from registries.
func (f *remoteFlags) pull(ctx context.Context, into *image.Store, ref string, p ocispec.Platform) (*image.Image, error) {
	if !registry.IsReference(ref) {
		return nil, fmt.Errorf("%w %q: it is no file, not in the store, and names no registry, as HOST/NAME:TAG does", image.ErrNotFound, ref)
	}
	r, err := registry.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	c, err := f.client(registry.Location{Kind: registry.Remote, Ref: r})
	if err != nil {
		return nil, err
	}
	o := registry.PullOptions{}
	if p.OS != "" {
		o.Wanted = []ocispec.Platform{p}
	}
	return c.Pull(ctx, into, r, o)
}

type copyFlags struct {
	remoteFlags
	all, unsigned, referrers, quiet bool
	platform                        string
}

func (f *copyFlags) add(c *cobra.Command) {
	f.remoteFlags.add(c)
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing while it works")
	c.Flags().BoolVar(&f.all, "all", false, "an index with all its images, not one of them")
	c.Flags().StringVar(&f.platform, "platform", "", "which image of an index, as OS/ARCHITECTURE (default: this host's)")
	c.Flags().BoolVar(&f.unsigned, "no-signatures", false, "leave signatures behind")
	c.Flags().BoolVar(&f.referrers, "referrers", false, "also everything else that refers to the image")
}

func (a *commands) copyCmd() *cobra.Command {
	f := &copyFlags{}
	c := &cobra.Command{Use: "copy [flags] SRC DST", Short: "copy an image between registries, layouts, archives and stores", Long: locationHelp + `

What is at the destination already is not copied again. Signatures go along; out
of a store only those of the image, not of an index that it came from.
The digest of the image is printed to the standard output.`,
		Args: exactly(2, "a source and a destination"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.copy(cmd.Context(), f, args[0], args[1]) }}
	f.add(c)
	return c
}

func (a *commands) pushCmd() *cobra.Command {
	f := &copyFlags{}
	c := &cobra.Command{Use: "push [flags] IMAGE REFERENCE", Short: "push an image to a registry",
		Long: "IMAGE is an OCI archive or layout by its path, or as SRC below. REFERENCE is HOST/NAME:TAG.\n\n" + locationHelp,
		Args: exactly(2, "an image and a reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := registry.ParseReference(args[1]); err != nil {
				return usageError{err}
			}
			src, err := a.localImage(args[0])
			if err != nil {
				return err
			}
			return a.copy(cmd.Context(), f, src, args[1])
		}}
	f.add(c)
	return c
}

// localImage takes a path of an archive or a directory as such.
func (a *commands) localImage(arg string) (string, error) {
	for _, kind := range []registry.Kind{registry.Layout, registry.Archive, registry.Store} {
		if strings.HasPrefix(arg, string(kind)+":") {
			return arg, nil
		}
	}
	if strings.Contains(arg, ":") {
		if registry.IsReference(arg) {
			return arg, nil
		}
		return "", usagef("%s: a path with a colon cannot be named here", arg)
	}
	dir, err := isDir(arg)
	if err != nil {
		return "", err
	}
	if dir {
		return string(registry.Layout) + ":" + arg, nil
	}
	return string(registry.Archive) + ":" + arg, nil
}

func (a *commands) pullCmd() *cobra.Command {
	f := &copyFlags{}
	var output string
	c := &cobra.Command{Use: "pull [flags] -o IMAGE REFERENCE", Short: "pull an image from a registry into an archive or a directory",
		Long: "REFERENCE is HOST/NAME:TAG or HOST/NAME@sha256:...\n\n" + locationHelp,
		Args: exactly(1, "one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := registry.ParseReference(args[0]); err != nil {
				return usageError{err}
			}
			switch {
			case output == "":
				return usagef("where is the image to go? Add -o IMAGE.tar")
			case strings.Contains(output, ":"):
				return usagef("-o %s: a path with a colon cannot be named here", output)
			case strings.HasSuffix(output, "/"):
				return a.copy(cmd.Context(), f, args[0], string(registry.Layout)+":"+strings.TrimRight(output, "/"))
			}
			return a.copy(cmd.Context(), f, args[0], string(registry.Archive)+":"+output)
		}}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "", "where the image goes: an OCI archive, or with a final slash an OCI layout directory")
	return c
}

// transfer copies an image and shows how far it is, unless it has no title.
func (a *commands) transfer(ctx context.Context, f *remoteFlags, title string, from, to registry.Location, o registry.CopyOptions) (registry.Copied, error) {
	c, err := f.client(from, to)
	if err != nil {
		return registry.Copied{}, usageError{err}
	}
	if title != "" {
		bar := app.NewBar(a.terminal, title)
		defer bar.End()
		o.Progress = func(p image.Progress) {
			bar.Set(p.Done, p.Size, fmt.Sprintf("%d of %d blobs", p.LayersDone, p.Layers))
		}
	}
	return c.Copy(ctx, from, to, o)
}

func (a *commands) copy(ctx context.Context, f *copyFlags, from, to string) error {
	src, err := registry.ParseLocation(from)
	if err != nil {
		return usageError{err}
	}
	dst, err := registry.ParseLocation(to)
	if err != nil {
		return usageError{err}
	}
	o := registry.CopyOptions{All: f.all, Unsigned: f.unsigned, Referrers: f.referrers}
	if o.Platform, err = platform(f.platform); err != nil {
		return err
	}
	title := "copying " + from
	if f.quiet {
		title = ""
	}
	done, err := a.transfer(ctx, &f.remoteFlags, title, src, dst, o)
	if err != nil {
		return err
	}
	if !f.quiet {
		printable.Fprintf(a.messages, "%s is at %s\n", cmp.Or(done.Name, "the image"), dst)
		if done.Attached > 0 {
			printable.Fprintf(a.messages, "with %d signatures and referrers\n", done.Attached)
		}
	}
	_, err = printable.Fprintln(a.out, done.Digest)
	return err
}
