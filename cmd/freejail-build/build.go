package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/freejail-build/buildjail"
	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/printable"
)

const outputHelp = "the image file, an OCI archive; with a final slash an OCI layout directory"

// outputFlags are common to what makes images.
type outputFlags struct {
	build.Options
	progress app.Progress
	bars     *app.Bars
}

func (f *outputFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.Output, "output", "o", "", outputHelp)
	platformFlag(c, &f.Platform, "the platform of the image, as `OS/ARCHITECTURE`")
	c.Flags().StringVar(&f.Compression, "compression", build.CompressionGzip, "of layers that are made: "+
		"gzip, zstd or zstd:chunked, of which hosts fetch what they have not")
	f.progress.Flags(c.Flags())
}

func (f *outputFlags) options(a *commands) (o build.Options, err error) {
	o = f.Options
	if err := build.CheckCompression(o.Compression); err != nil {
		return o, app.UsageError{Err: err}
	}
	f.bars = f.progress.Bars(a.App)
	o.Log, o.Bytes = f.bars, f.bars.Set
	if o.Epoch, err = build.EpochFromEnv(); err != nil {
		return o, app.UsageError{Err: err}
	}
	o.Warn = func(text string) { f.bars.Say("warning: " + text) }
	if !f.progress.Quiet {
		o.Progress = f.bars.Say
	}
	return o, nil
}

func (a *commands) made(img *image.Image, err error) error {
	if err != nil {
		return err
	}
	return a.printImage(img.Name, img.Digest)
}

// printImage prints the digest of an image that was made or copied.
func (a *commands) printImage(name string, d digest.Digest) error {
	v := struct {
		Name   string        `json:"name,omitempty"`
		Digest digest.Digest `json:"digest"`
	}{name, d}
	return a.Print(v, func(w io.Writer) { printable.Fprintln(w, d) })
}

type buildFlags struct {
	outputFlags
	cacheFlags
	remoteFlags
	store, format, policy string
	args, secrets         []string
}

func (a *commands) buildCmd() *cobra.Command {
	f := &buildFlags{}
	c := app.Command("build [flags] -o IMAGE DIRECTORY",
		"build an image from a Jailfile or Containerfile",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) error { return a.build(ctx, f, args[0]) })
	c.Long = `Build an image from a Jailfile, Containerfile, Dockerfile or Bastillefile. COPY
and ADD take files from the directory only; ` + build.IgnoreFile + ` in it, or .containerignore or
.dockerignore for a Containerfile, lists what they ignore.

Builds are reproducible: the same input gives the same image. SOURCE_DATE_EPOCH in
the environment is the time of the image, and nothing in it is newer; unset, that
is 1970.

RUN needs root: each command runs in a new jail with the image's files, the basic
nodes of /dev, and the host's network or none (--network none).

The digest of the image is printed to standard output.`
	f.outputFlags.add(c)
	c.Flags().StringVarP(&f.File, "file", "f", "", "the Jailfile, or - for standard input (default: "+
		strings.Join([]string{build.DefaultFile, build.ContainerFile, build.DockerFile}, ", ")+" or "+
		build.BastilleFile+" in the directory)")
	c.Flags().StringVar(&f.format, "format", "",
		"jailfile, containerfile, dockerfile or bastille (default: by the file's name)")
	c.Flags().StringVar(&f.From, "from", "", "the base of a Bastillefile: an archive, a layout or the name of an image")
	c.Flags().StringVarP(&f.Tag, "tag", "t", "", "the name of the image (default: NAME of the Jailfile)")
	c.Flags().StringArrayVar(&f.args, "build-arg", nil,
		"`NAME=VALUE` for an ARG of the Jailfile; NAME alone takes the value from the environment")
	c.Flags().StringVar(&f.store, "store", "",
		"a directory of images, for FROM and for the image built (not the one of a running daemon)")
	c.Flags().StringVar(&f.Network, "network", build.NetworkHost, "the network of RUN: host or none")
	c.Flags().StringVar(&f.Target, "target", "", "the stage to build, by its name or number (default: the last)")
	c.Flags().StringArrayVar(&f.secrets, "secret", nil,
		"`id=NAME,src=FILE` or id=NAME,env=VARIABLE, for RUN --mount=type=secret,id=NAME")
	c.Flags().StringVar(&f.ZFSDataset, "zfs-dataset", "",
		"a mounted ZFS dataset for RUN: each step is a clone of the step before it")
	c.Flags().StringVar(&f.policy, "policy", "",
		"a file with permit and deny blocks for RUN --allow and --sysvipc (default: nothing permitted)")
	unknownFlag(c, &f.UnknownParameters)
	f.cacheFlags.add(c)
	f.remoteFlags.add(c)
	return c
}

func (a *commands) build(ctx context.Context, f *buildFlags, dir string) (err error) {
	o, err := f.options(a)
	if err != nil {
		return err
	}
	if f.Output == "" && f.store == "" {
		return app.Usagef("no output: add -o IMAGE.tar")
	}
	if f.Network != build.NetworkHost && f.Network != build.NetworkNone {
		return app.Usagef("--network %s: expected host or none", f.Network)
	}
	if o.Format, err = format(f.format); err != nil {
		return err
	}
	o.Context, o.Pull = dir, f.base
	if o.Permit, err = permits(f.policy); err != nil {
		return err
	}
	o.Inputs = f.inputs()
	if o.Args, err = buildArgs(f.args, o.Warn); err != nil {
		return err
	}
	if o.Secrets, err = secrets(f.secrets); err != nil {
		return err
	}
	if o.Cache, err = f.dir(); err != nil {
		return err
	}
	if f.store != "" {
		if o.Store, err = layout.OpenStore(f.store, image.Limits{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Store.Close()) }()
	}
	o.Runner = func(state string) (build.Runner, error) { return buildjail.New(state) }
	o.CleanUp = buildjail.CleanUp
	img, err := build.Build(ctx, o)
	f.bars.End()
	return a.made(img, err)
}

// base pulls an image that a build stands on.
func (f *buildFlags) base(ctx context.Context, into *layout.Store, ref string,
	p ocispec.Platform) (*image.Image, error) {
	return f.pull(ctx, into, ref, p, func(p image.Progress) { f.bars.Set("pulling "+ref, p.Done, p.Size) })
}

func format(name string) (string, error) {
	switch name {
	case "", build.FormatJailfile, build.FormatContainerfile, build.FormatBastille:
		return name, nil
	case "dockerfile":
		return build.FormatContainerfile, nil
	}
	return "", app.Usagef("--format %s: expected jailfile, containerfile, dockerfile or bastille", name)
}

// inputs are the files that the flags name.
func (f *buildFlags) inputs() (out []string) {
	for _, text := range f.secrets {
		for word := range strings.SplitSeq(text, ",") {
			if key, file, _ := strings.Cut(word, "="); key == "src" || key == "source" {
				out = append(out, file)
			}
		}
	}
	for _, file := range []string{f.policy, f.AuthFile, f.CAFile} {
		if file != "" {
			out = append(out, file)
		}
	}
	return out
}

// buildArgs leaves out what is named alone and is not in the environment, as other
// builders do.
func buildArgs(list []string, warn func(string)) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, has := strings.Cut(text, "=")
		if name == "" {
			return nil, app.Usagef("--build-arg %s: expected NAME=VALUE", text)
		}
		if !has {
			if value, has = os.LookupEnv(name); !has {
				warn("--build-arg " + text + ": no such variable in the environment, so it is not set")
				continue
			}
		}
		out[name] = value
	}
	return out, nil
}
