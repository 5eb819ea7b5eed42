package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/printable"
)

// difference is what one image has and another has not.
type difference struct {
	Requests lists          `json:"requests"` // what a host's policy decides about
	Config   lists          `json:"config"`
	Files    []build.Change `json:"files"`
}

type lists struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
}

const diffHelp = `

Shows the requests that the second image adds or drops, about which a host's policy
decides, the differences of the configs, and the files that were added (+), removed
(-) or changed (M).`

func (a *commands) diffCmd() *cobra.Command {
	var noFiles bool
	c := a.imageCommand("diff IMAGE IMAGE", "compare two images: requests, config and files", diffHelp, 2,
		func(ctx context.Context, f *imageFlags, args []string) error {
			d, err := f.compare(ctx, args[0], args[1], !noFiles)
			if err != nil {
				return err
			}
			return a.Print(d, d.print)
		})
	c.Flags().BoolVar(&noFiles, "no-files", false, "do not read the layers")
	return c
}

func (f *imageFlags) compare(ctx context.Context, first, second string, files bool) (d *difference, err error) {
	var sides [2]build.Side
	for i, arg := range []string{first, second} {
		if files {
			var done func() error
			if sides[i].Layout, sides[i].Image, done, err = f.load(ctx, arg); err == nil {
				defer func() { err = errors.Join(err, done()) }()
			}
		} else {
			sides[i].Image, err = f.describe(ctx, arg)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", arg, err)
		}
	}
	a, b := sides[0].Image, sides[1].Image
	d = &difference{Requests: changes(allRequests(a), allRequests(b)),
		Config: changes(settings(a), settings(b)), Files: []build.Change{}}
	if files {
		list, err := build.Compare(ctx, sides[0], sides[1])
		if err != nil {
			return nil, err
		}
		d.Files = append(d.Files, list...)
	}
	return d, nil
}

func changes(a, b []string) lists {
	without := func(list, other []string) []string {
		out := []string{}
		for _, s := range list {
			if !slices.Contains(other, s) {
				out = append(out, s)
			}
		}
		return out
	}
	return lists{Added: without(b, a), Removed: without(a, b)}
}

// allRequests are the image's, with the ports, which hosts decide about too.
func allRequests(img *image.Image) (out []string) {
	for _, r := range requests(img) {
		out = append(out, r[0]+" "+strings.TrimSpace(r[1]))
	}
	for _, p := range img.Manifest.Ports {
		out = append(out, fmt.Sprintf("port %d/%s", p.Port, p.Protocol))
	}
	return out
}

// settings are the config's and the rest of the manifest's, one a line.
func settings(img *image.Image) (out []string) {
	m := img.Manifest
	all := append(fields(img), field{"platform", []string{img.Config.OS + "/" + img.Config.Architecture}, false})
	for _, f := range all {
		switch {
		case f.list:
			for _, v := range f.values {
				out = append(out, fmt.Sprintf("%s %q", strings.TrimSuffix(f.name, "s"), v))
			}
		case len(f.values) > 0:
			out = append(out, f.name+" "+quoted(f.values))
		}
	}
	for kind, list := range map[string][][]string{"parameter": parameters(m.Parameters), "port": ports(m.Ports),
		"volume": volumes(m.Volumes), "writable": column(m.Writable)} {
		for _, row := range list {
			row = slices.DeleteFunc(row, func(s string) bool { return s == "" })
			out = append(out, kind+" "+strings.Join(row, ", "))
		}
	}
	slices.Sort(out)
	return out
}

func (d *difference) print(w io.Writer) {
	d.Requests.print(w, "REQUESTS (a host's policy decides)")
	d.Config.print(w, "CONFIG")
	marks := map[string]string{"added": "+", "removed": "-", "changed": "M"}
	if len(d.Files) > 0 {
		printable.Fprintln(w, "FILES")
	}
	for _, f := range d.Files {
		printable.Fprintf(w, "  %s %s  %s\n", marks[f.Kind], quoteBlanks(f.Path), strings.Join(f.What, ", "))
	}
	if len(d.Files)+d.Config.len()+d.Requests.len() == 0 {
		printable.Fprintln(w, "no difference")
	}
}

func (l lists) len() int { return len(l.Added) + len(l.Removed) }

// quoteBlanks quotes a name that has blanks in it or would not be seen as it is.
func quoteBlanks(name string) string {
	if q := strconv.Quote(name); q != `"`+name+`"` || strings.ContainsRune(name, ' ') {
		return q
	}
	return name
}

func (l lists) print(w io.Writer, title string) {
	if l.len() == 0 {
		return
	}
	printable.Fprintln(w, title)
	for _, s := range l.Added {
		printable.Fprintf(w, "  + %s\n", s)
	}
	for _, s := range l.Removed {
		printable.Fprintf(w, "  - %s\n", s)
	}
	printable.Fprintln(w)
}
