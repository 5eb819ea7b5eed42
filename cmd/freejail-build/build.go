package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/freejail-build/buildjail"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/printable"
)

// outputFlags are common to what makes images.
type outputFlags struct {
	output, platform string
	quiet            bool
}

func (f *outputFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.output, "output", "o", "", "where the image goes: an OCI archive, or with a final slash an OCI layout directory")
	c.Flags().StringVar(&f.platform, "platform", "", "what the image is for, as OS/ARCHITECTURE")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing while it works")
}

func (f *outputFlags) options(a *commands) (o build.Options, err error) {
	o.Output, o.Log = f.output, a.messages
	if o.Platform, err = platform(f.platform); err != nil {
		return o, err
	}
	if o.Epoch, err = build.EpochFromEnv(); err != nil {
		return o, usageError{err}
	}
	o.Warn = func(text string) { printable.Fprintln(a.messages, "warning:", text) }
	if !f.quiet {
		o.Progress = func(text string) { printable.Fprintln(a.messages, text) }
	}
	return o, nil
}

func (a *commands) made(img *image.Image, err error) error {
	if err == nil {
		_, err = printable.Fprintln(a.out, img.Digest)
	}
	return err
}

type buildFlags struct {
	outputFlags
	cacheFlags
	remoteFlags
	file, tag, store, network, target string
	from, format, dataset, policy     string
	args, secrets                     []string
}

func (a *commands) buildCmd() *cobra.Command {
	f := &buildFlags{}
	c := &cobra.Command{Use: "build [flags] -o IMAGE DIRECTORY", Short: "make an image of a Jailfile and the files in a directory",
		Long: `Make an image of a Jailfile. COPY and ADD take files from the directory and
from nowhere else; ` + build.IgnoreFile + ` in it names what they pass over.

Equal input gives an equal image. SOURCE_DATE_EPOCH in the environment is the
time of the image, and nothing in it is newer; unset, that is 1970.

RUN needs root: the command runs in a jail of its own with the image's files,
the basic nodes of /dev, and the host's network, or none of it (--network none).

The digest of the image is printed to the standard output.`,
		Args: exactly(1, "one directory"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.build(cmd.Context(), f, args[0]) }}
	f.outputFlags.add(c)
	c.Flags().StringVarP(&f.file, "file", "f", "", "the Jailfile, or - for the standard input (default: "+
		build.DefaultFile+" in the directory, or "+build.BastilleFile+")")
	c.Flags().StringVar(&f.format, "format", "", "jailfile or bastille (default: by the file's name)")
	c.Flags().StringVar(&f.from, "from", "", "what a Bastillefile builds on: an archive, a layout or an image's name")
	c.Flags().StringVarP(&f.tag, "tag", "t", "", "the image's name (default: what NAME in the Jailfile says)")
	c.Flags().StringArrayVar(&f.args, "build-arg", nil, "NAME=value for an ARG of the Jailfile; NAME alone takes the environment's")
	c.Flags().StringVar(&f.store, "store", "", "a directory of images: FROM finds names there, and the image is kept there (not a running daemon's)")
	c.Flags().StringVar(&f.network, "network", build.NetworkHost, "of RUN: host or none")
	c.Flags().StringVar(&f.target, "target", "", "the stage to build, by the name after AS or by its number (default: the last)")
	c.Flags().StringArrayVar(&f.secrets, "secret", nil, "id=NAME,src=FILE or id=NAME,env=VARIABLE: for RUN --mount=type=secret,id=NAME, in no layer and no log")
	c.Flags().StringVar(&f.dataset, "zfs-dataset", "", "a ZFS dataset with a mount point for the files of RUN: each step is a clone of the one before it")
	c.Flags().StringVar(&f.policy, "policy", "", "a file with permit and deny blocks, for RUN --allow and --sysvipc (default: nothing is permitted)")
	f.cacheFlags.add(c)
	f.remoteFlags.add(c)
	return c
}

func (a *commands) build(ctx context.Context, f *buildFlags, dir string) (err error) {
	o, err := f.options(a)
	if err != nil {
		return err
	}
	if f.output == "" && f.store == "" {
		return usagef("where is the image to go? Add -o IMAGE.tar")
	}
	if f.network != build.NetworkHost && f.network != build.NetworkNone {
		return usagef("--network %s: there are host and none", f.network)
	}
	if f.format != "" && f.format != "jailfile" && f.format != "bastille" {
		return usagef("--format %s: there are jailfile and bastille", f.format)
	}
	o.ZFSDataset, o.Pull = f.dataset, f.pull
	if o.Permit, err = permits(f.policy); err != nil {
		return err
	}
	o.From, o.Bastille = f.from, f.format == "bastille"
	o.Context, o.File, o.Tag, o.Target, o.Network = dir, f.file, f.tag, f.target, f.network
	if o.Args, err = buildArgs(f.args); err != nil {
		return err
	}
	if o.Secrets, err = secrets(f.secrets); err != nil {
		return err
	}
	if o.Cache, err = f.dir(); err != nil {
		return err
	}
	if f.store != "" {
		if o.Store, err = image.OpenStore(f.store, image.Limits{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Store.Close()) }()
	}
	o.Runner = func(state string) (build.Runner, error) { return buildjail.New(state) }
	o.CleanUp = buildjail.CleanUp
	return a.made(build.Build(ctx, o))
}

func buildArgs(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, has := strings.Cut(text, "=")
		if !has {
			if value, has = os.LookupEnv(name); !has {
				return nil, usagef("--build-arg %s: it has no value, and the environment has none", name)
			}
		}
		if name == "" {
			return nil, usagef("--build-arg %s: want NAME=value", text)
		}
		out[name] = value
	}
	return out, nil
}
