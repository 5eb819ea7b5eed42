package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
)

func (a *commands) inspectCmd() *cobra.Command {
	c := a.imageCommand("inspect IMAGE", "show what an image is, asks for and offers", "", 1,
		func(ctx context.Context, f *imageFlags, args []string) error {
			img, err := f.describe(ctx, args[0])
			if err != nil {
				return err
			}
			return a.Print(document(img), func(w io.Writer) { describe(w, img) })
		})
	return c
}

const unpackHelp = `

The directory is created if it does not exist. Without root all files belong to
the caller, and set-uid and set-gid bits are dropped.`

func (a *commands) unpackCmd() *cobra.Command {
	var show app.Progress
	c := a.imageCommand("unpack IMAGE DIRECTORY", "unpack an image's files into an empty directory", unpackHelp, 2,
		func(ctx context.Context, f *imageFlags, args []string) (err error) {
			f.show = show
			l, img, done, err := f.load(ctx, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if err := os.Mkdir(args[1], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			bar := f.show.Bar(a.App, "unpacking "+args[0])
			defer bar.End()
			return unpack.Image(ctx, l, img, args[1], func(p image.Progress) {
				bar.Set(p.Done, p.Size, fmt.Sprintf("%d of %d layers", p.LayersDone, p.Layers))
			})
		})
	show.Flags(c.Flags())
	return c
}

func (a *commands) schemaCmd() *cobra.Command {
	return app.Command("schema", "print the JSON Schema of an image's manifest", cobra.NoArgs,
		func(_ context.Context, _ []string) error {
			_, err := a.Out.Write(image.ManifestSchema)
			return err
		})
}
