package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

const validateHelp = `

All its images are checked, or those of --platform. Each finding is a line: error,
warning or note, a code, where it is, and what it is. With an error the exit code
is 1.`

func (a *commands) validateCmd() *cobra.Command {
	var unknown []string
	c := a.imageCommand("validate IMAGE", "report every error in an image", validateHelp, 1,
		func(ctx context.Context, f *imageFlags, args []string) error {
			f.unknown = unknown
			found, err := f.validate(ctx, args[0])
			if err != nil {
				return err
			}
			err = a.Print(append([]image.Finding{}, found.List...), func(w io.Writer) { printFindings(w, found) })
			if err == nil && found.Errors() > 0 {
				return app.ExitCode(app.Failed)
			}
			return err
		})
	unknownFlag(c, &unknown)
	return c
}

func printFindings(w io.Writer, found *image.Findings) {
	rank := map[image.Severity]int{image.Error: 0, image.Warning: 1, image.Note: 2}
	slices.SortStableFunc(found.List, func(a, b image.Finding) int { return rank[a.Severity] - rank[b.Severity] })
	for _, f := range found.List {
		printable.Fprintf(w, "%-7s  %s: %s: %s\n", f.Severity, f.Code, f.Where, printable.Flat(f.Text))
	}
	if found.Errors() == 0 {
		printable.Fprintln(w, "no faults found")
	}
}

// validate gives the findings, and as an error what kept it from looking. What
// is no image is a finding.
func (f *imageFlags) validate(ctx context.Context, arg string) (found *image.Findings, err error) {
	at, err := locate(arg)
	if err != nil {
		return nil, err
	}
	if at != nil {
		if arg, err = os.MkdirTemp("", "freejail-image-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(arg)) }()
		to := registry.Location{Kind: registry.Layout, Path: arg, Name: "image"}
		if _, err := f.copyTo(ctx, at, to, registry.CopyOptions{All: true, Unsigned: true}); err != nil {
			return nil, err
		}
	}
	p := f.target
	want := func(q ocispec.Platform) bool {
		return p.OS == "" || q.OS == "" || p.OS == q.OS && p.Architecture == q.Architecture
	}
	e, err := layout.Examine(ctx, arg, image.Limits{}, want)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for _, img := range e.Images {
		if err := f.checkImage(ctx, e, img); err != nil {
			return nil, err
		}
	}
	return &e.Findings, nil
}

func (f *imageFlags) checkImage(ctx context.Context, e *layout.Examination, img *image.Image) error {
	where := "" // of a single image that needs not be told
	if len(e.Images) > 1 {
		where = fmt.Sprintf("image %.19s (%s/%s)", img.Digest, img.Config.OS, img.Config.Architecture)
	}
	if err := build.Check(ctx, e.Layout, img, where, &e.Findings); err != nil {
		return err
	}
	at := func(what string) string {
		if where != "" {
			return where + ", " + what
		}
		return what
	}
	in := func(field string) string { return at("manifest: " + field) }
	if err := image.CheckPlatform(img.Config.Platform); err != nil && img.Config.Architecture != "" {
		e.Add(image.Error, "platform", at("config"), "%v", err)
	}
	for i, text := range img.Manifest.Requires.Devfs {
		if _, err := devfs.ParseRule(text); err != nil {
			e.Add(image.Error, "devfs-rule", in(fmt.Sprintf("requires.devfs[%d]", i)), "%v", err)
		}
	}
	requires, err := img.Privileges()
	if err != nil {
		for text := range strings.SplitSeq(err.Error(), "\n") {
			e.Add(image.Error, "label", at("config"), "%s", text)
		}
	}
	f.checkNames(requires, len(img.Manifest.Requires.Allow), e, at)
	if _, odd := image.Exposed(img.Config.Config.ExposedPorts); len(odd) > 0 {
		e.Add(image.Warning, "exposed-ports", at("config"), "not understood, or too many, and left out: %q", odd)
	}
	if requires.VNET {
		e.Add(image.Note, "vnet", in("requires.vnet"),
			"a task of the image starts on a network with a stack of its own alone, which not every host has")
	}
	return nil
}

// checkNames finds permissions and parameters that are probably misspelt.
// Of the permissions the first so many are the manifest's, the others of labels.
func (f *imageFlags) checkNames(r image.Requires, own int, e *layout.Examination, at func(what string) string) {
	for i, name := range r.Allow {
		where := "config: label org.freebsd.jail.allow." + name
		if i < own {
			where = fmt.Sprintf("manifest: requires.allow[%d]", i)
		}
		if err := image.CheckPermission(name); err != nil && !slices.Contains(f.unknown, name) {
			e.Add(image.Error, "unknown-parameter", at(where), "%v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Jail)) {
		if err := image.CheckJailParameter(name); err != nil && !slices.Contains(f.unknown, name) {
			e.Add(image.Error, "unknown-parameter", at("manifest: requires.jail"), "%v", err)
		}
	}
}
