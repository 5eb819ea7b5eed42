package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

// errFindings ends with exit code 1; the findings are printed already.
var errFindings = errors.New("the image has faults")

func (a *commands) validateCmd() *cobra.Command {
	var f *imageFlags
	var asJSON bool
	c := &cobra.Command{Use: "validate IMAGE", Short: "name everything that is wrong with an image", Long: imageHelp + `

Every image in it is looked at, unless --platform chooses. Every finding is a
line: error, warning or note, a code that tells its kind, where it is, and what.
With an error the exit code is 1.`, Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := f.validate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.printFindings(found, asJSON); err != nil {
				return err
			}
			if found.Errors() > 0 {
				return errFindings
			}
			return nil
		}}
	f = a.imageFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON for programs")
	return c
}

func (a *commands) printFindings(found *image.Findings, asJSON bool) error {
	if asJSON {
		return printJSON(a.out, append([]image.Finding{}, found.List...))
	}
	rank := map[image.Severity]int{image.Error: 0, image.Warning: 1, image.Note: 2}
	slices.SortStableFunc(found.List, func(a, b image.Finding) int { return rank[a.Severity] - rank[b.Severity] })
	for _, f := range found.List {
		if _, err := printable.Fprintf(a.out, "%-7s  %s: %s: %s\n", f.Severity, f.Code, f.Where, printable.Flat(f.Text)); err != nil {
			return err
		}
	}
	if found.Errors() == 0 {
		_, err := printable.Fprintln(a.out, "no faults found")
		return err
	}
	return nil
}

// validate gives the findings, and as an error what kept it from looking. What
// is no image is a finding.
func (f *imageFlags) validate(ctx context.Context, arg string) (found *image.Findings, err error) {
	p, err := platform(f.target)
	if err != nil {
		return nil, err
	}
	at, isDir, err := locate(arg)
	if err != nil {
		return nil, err
	}
	dir := arg
	if !isDir {
		if dir, err = os.MkdirTemp("", "freejail-image-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	switch {
	case at != nil:
		if _, err := f.copyTo(ctx, at, registry.Location{Kind: registry.Layout, Path: dir, Name: "image"}, registry.CopyOptions{All: true, Unsigned: true}); err != nil {
			return nil, err
		}
	case !isDir:
		if err := image.ExtractLayout(ctx, arg, dir, image.Limits{}); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			found = &image.Findings{}
			found.Add(image.Error, "archive", arg, "%v", err)
			return found, nil
		}
	}
	want := func(q ocispec.Platform) bool {
		return p.OS == "" || q.OS == "" || p.OS == q.OS && p.Architecture == q.Architecture
	}
	e, err := image.Examine(ctx, dir, image.Limits{}, want)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Layout.Close()) }()
	for _, img := range e.Images {
		if err := checkImage(ctx, e, img); err != nil {
			return nil, err
		}
	}
	return &e.Findings, nil
}

func checkImage(ctx context.Context, e *image.Examination, img *image.Image) error {
	where := "" // of a single image that needs not be told
	if len(e.Images) > 1 {
		where = fmt.Sprintf("image %.19s (%s/%s)", img.Digest, img.Config.OS, img.Config.Architecture)
	}
	if err := build.Check(ctx, e.Layout, img, where, &e.Findings); err != nil {
		return err
	}
	for i, text := range img.Manifest.Requires.Devfs {
		if _, err := devfs.ParseRule(text); err != nil {
			at := fmt.Sprintf("manifest: requires.devfs[%d]", i)
			if where != "" {
				at = where + ", " + at
			}
			e.Add(image.Error, "devfs-rule", at, "%v", err)
		}
	}
	return nil
}
