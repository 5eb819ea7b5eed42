package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
)

const imageHelp = "IMAGE is an OCI archive (tar, also in gzip, zstd or xz) or an OCI layout directory."

func (a *app) inspectCmd() *cobra.Command {
	var asJSON bool
	var target string
	c := &cobra.Command{Use: "inspect IMAGE", Short: "tell what an image is, wants and offers", Long: imageHelp, Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p, err := platform(target)
			if err != nil {
				return err
			}
			_, img, done, err := load(cmd.Context(), args[0], p)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if asJSON {
				return printJSON(a.out, img)
			}
			return describe(a.out, img)
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON for programs")
	c.Flags().StringVar(&target, "platform", "", "which of the images, as OS/ARCHITECTURE")
	return c
}

// errFindings ends with exit code 1; the findings are printed already.
var errFindings = errors.New("the image has faults")

func (a *app) validateCmd() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "validate IMAGE", Short: "name everything that is wrong with an image", Long: imageHelp + `

Every finding is a line; with any the exit code is 1.`, Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := platform(target)
			if err != nil {
				return err
			}
			findings, err := validate(cmd.Context(), args[0], func() (*image.Layout, *image.Image, func() error, error) {
				return load(cmd.Context(), args[0], p)
			})
			for _, f := range findings {
				if _, werr := fmt.Fprintln(a.out, f); werr != nil {
					return errors.Join(err, werr)
				}
			}
			switch {
			case err != nil:
				return err
			case len(findings) > 0:
				return errFindings
			}
			_, err = fmt.Fprintln(a.out, "no faults found")
			return err
		}}
	c.Flags().StringVar(&target, "platform", "", "which of the images, as OS/ARCHITECTURE")
	return c
}

// validate gives the findings, and as an error what kept it from looking. An
// image that cannot be imported is a finding.
func validate(ctx context.Context, path string, load func() (*image.Layout, *image.Image, func() error, error)) (findings []error, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	l, img, done, err := load()
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return flatten(err), nil
	}
	defer func() { err = errors.Join(err, done()) }()
	findings, err = build.Check(ctx, l, img)
	if err != nil {
		return findings, err
	}
	for i, text := range img.Manifest.Requires.Devfs {
		if _, err := devfs.ParseRule(text); err != nil {
			findings = append(findings, fmt.Errorf("manifest: requires.devfs[%d]: %w", i, err))
		}
	}
	return findings, nil
}

// flatten makes one finding of each joined error.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

func (a *app) unpackCmd() *cobra.Command {
	var target string
	c := &cobra.Command{Use: "unpack IMAGE DIRECTORY", Short: "unpack an image's files into an empty directory", Long: imageHelp + `

The directory is made where it is missing. Owners need root; without it,
everything is the caller's, and setuid and setgid bits are dropped.`,
		Args: exactly(2, "an image and a directory"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p, err := platform(target)
			if err != nil {
				return err
			}
			l, img, done, err := load(cmd.Context(), args[0], p)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			if err := os.Mkdir(args[1], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			return l.Unpack(cmd.Context(), img, args[1], nil)
		}}
	c.Flags().StringVar(&target, "platform", "", "which of the images, as OS/ARCHITECTURE")
	return c
}
