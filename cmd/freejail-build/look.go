package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
)

func (a *commands) inspectCmd() *cobra.Command {
	var asJSON bool
	var f *imageFlags
	c := &cobra.Command{Use: "inspect IMAGE", Short: "tell what an image is, wants and offers", Long: imageHelp, Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, err := f.describe(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printImageJSON(a.out, img)
			}
			return describe(a.out, img)
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON for programs")
	f = a.imageFlags(c)
	return c
}

func (a *commands) unpackCmd() *cobra.Command {
	var f *imageFlags
	c := &cobra.Command{Use: "unpack IMAGE DIRECTORY", Short: "unpack an image's files into an empty directory", Long: imageHelp + `

The directory is made where it is missing. Owners need root; without it,
everything is the caller's, and setuid and setgid bits are dropped.`,
		Args: exactly(2, "an image and a directory"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			l, img, done, err := f.load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if err := os.Mkdir(args[1], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			bar := app.NewBar(a.terminal, "unpacking "+args[0])
			defer bar.End()
			return l.Unpack(cmd.Context(), img, args[1], func(p image.Progress) {
				bar.Set(p.Done, p.Size, fmt.Sprintf("%d of %d layers", p.LayersDone, p.Layers))
			})
		}}
	f = a.imageFlags(c)
	return c
}
