package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/regular"
)

func (a *commands) saveCmd() *cobra.Command {
	var output string
	var r client.SaveRequest
	c := app.Command("save IMAGE... -o FILE", "save images of this host in an OCI archive", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			images, err := a.toSave(ctx, args)
			if err != nil {
				return err
			}
			if output == "" || output == stream {
				return a.saveTo(ctx, r, images, a.stream)
			}
			if err := a.saveFile(ctx, r, images, output); err != nil {
				return err
			}
			return a.Print(images, func(w io.Writer) { printNames(w, images) })
		})
	c.Long = `IMAGE is a name, or a digest, of "freejail images". The layers are as they are stored,
so the digests stay, and the signatures and approvals of the images are in the archive
too. "freejail load", freejail-build and skopeo read it, and podman: "podman load" where
there is one image alone in it, without signatures, "podman pull oci-archive:FILE:NAME"
else. Without -o it is
written to standard output, which must be no terminal. A FILE that is there is replaced
when all is written.`
	c.Flags().StringVarP(&output, "output", "o", "", "the `FILE` (default: standard output)")
	c.Flags().BoolVar(&r.Unsigned, "no-signatures", false, "leave signatures and approvals out")
	return c
}

// toSave finds images before anything is written.
func (a *commands) toSave(ctx context.Context, args []string) (images []client.ImageInfo, err error) {
	for _, arg := range args {
		if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
			return nil, app.Usagef("%q is a path: give an image by its name, as `freejail images` lists it", arg)
		}
		ref, err := a.shortDigest(ctx, arg)
		if err != nil {
			return nil, err
		}
		i, err := a.client().Image(ctx, ref)
		if err != nil {
			return nil, err
		}
		there := func(o client.ImageInfo) bool {
			return o.Digest == i.Digest && (o.Name == i.Name || strings.HasPrefix(ref, "sha256:"))
		}
		if !slices.ContainsFunc(images, there) {
			images = append(images, *i)
		}
	}
	return images, nil
}

func (a *commands) saveFile(ctx context.Context, r client.SaveRequest, images []client.ImageInfo, file string) error {
	if err := regular.CheckOutput(file, false); err != nil {
		return err
	}
	for { // an upgrade of the daemon breaks off what it does
		err := durable.Replace(file, 0o600, func(w io.Writer) error { return a.saveTo(ctx, r, images, w) })
		switch {
		case err == nil:
			return durable.Sync(filepath.Dir(file))
		case !client.IsUpgrading(err) || ctx.Err() != nil:
			return err
		}
	}
}

// saveTo has the daemon write an archive, and shows how far it is.
func (a *commands) saveTo(ctx context.Context, r client.SaveRequest, images []client.ImageInfo, to io.Writer) error {
	if f, is := to.(*os.File); is && term.IsTerminal(int(f.Fd())) {
		return app.Usagef("the archive is not for a terminal: give -o FILE, or redirect standard output")
	}
	var done, size int64
	for _, i := range images {
		r.Images = append(r.Images, i.Name)
		if size += i.Size; i.Name == "" {
			r.Images[len(r.Images)-1] = i.Digest
		}
	}
	bar := app.NewBar(os.Stderr, "saving")
	defer bar.End()
	tell := writerFunc(func(p []byte) (int, error) {
		n, err := to.Write(p)
		done += int64(n)
		bar.Set(done, size, "")
		return n, err
	})
	return a.client().Save(ctx, r, tell, func(note string) {
		bar.End()
		printable.Fprintln(a.Messages, note)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (a *commands) loadCmd() *cobra.Command {
	var input string
	c := app.Command("load -i FILE", "import all images of an archive by the names that it gives them", noFile,
		func(ctx context.Context, _ []string) (err error) {
			file := input
			if input == "" || input == stream {
				if term.IsTerminal(int(os.Stdin.Fd())) {
					return app.Usagef("give -i FILE, or an archive on standard input")
				}
				var remove func() error
				if file, remove, err = spool(ctx, os.Stdin); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, remove()) }()
				return a.load(ctx, file, "standard input")
			}
			return a.load(ctx, withoutKind(file), file)
		})
	c.Long = `FILE is an archive or a directory as of "freejail images import", which imports one
image by the name of its file. The policy decides by names: load archives of those whom
you trust with their names, and else import their images by names of your own. An image
that had a name loses it, which is told.`
	c.Flags().StringVarP(&input, "input", "i", "", "the `FILE` (default: standard input)")
	return c
}

func noFile(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("give the archive as -i FILE")
	}
	return nil
}

// spool brings what is read into a file, for the daemon, until remove is called.
func spool(ctx context.Context, r io.Reader) (file string, remove func() error, err error) {
	f, err := os.CreateTemp("", "freejail-load-")
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return os.Remove(f.Name()) }
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(f, r)
		copied <- errors.Join(err, f.Close())
	}()
	select {
	case err = <-copied:
	case <-ctx.Done(): // the reading may wait for ever, and ends with the program
		err = ctx.Err()
	}
	if err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return f.Name(), remove, nil
}

// load imports the images of an archive, which is named in messages as the user knows it.
func (a *commands) load(ctx context.Context, file, name string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	tell, end := showProgress("loading " + name)
	r, err := a.client().Load(ctx, client.LoadRequest{Path: path, Name: name}, tell)
	if end(); err != nil {
		return err
	}
	var errs []error
	images := []client.ImageInfo{}
	for _, one := range r.Images {
		if one.Error != nil {
			errs = append(errs, one.Error)
			continue
		}
		images = append(images, *one.Image)
		if one.Was != "" {
			printable.Fprintf(a.Messages, "%s: it was %s\n", one.Image.Name, one.Was)
		}
	}
	if r.Nameless > 0 {
		printable.Fprintf(a.Messages, "left out, as the archive gives them no names: %s\n",
			printable.Count(r.Nameless, "image"))
	}
	err = a.Print(images, func(w io.Writer) { printNames(w, images) })
	if err != nil {
		return err
	}
	return app.Each(errs)
}
