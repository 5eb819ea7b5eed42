package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) imagesCmd() *cobra.Command {
	var quiet bool
	var v *view[client.ImageInfo]
	var c *cobra.Command
	c = app.Command("images [IMAGE]", "list the images of this host, or describe one", imageOrNone,
		func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				return a.image(ctx, c, args[0], v)
			}
			list, err := a.client().Images(ctx)
			if err != nil {
				return err
			}
			var all *client.DiskUse
			if v.format == "" && len(v.filters) == 0 && !quiet && !a.JSON {
				if all, err = a.client().ImageUse(ctx); err != nil {
					return err
				}
			}
			return v.print(a, list, func(w io.Writer, list []client.ImageInfo) {
				if quiet {
					printDigests(w, list)
					return
				}
				table(w, "NAME\tDIGEST\tPLATFORM\tSIZE\tSHARED\tUNPACKED\tTASKS\tSUMMARY", list, imageRow)
				if all != nil {
					printTotals(w, len(list), all.Parts)
				}
			})
		})
	var name string
	imp := answer(a, "import ARCHIVE", "import an archive or a directory that holds an image", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) (*client.ImageInfo, error) {
			path, err := filepath.Abs(withoutKind(args[0]))
			if err != nil {
				return nil, err
			}
			tell, end := showProgress("importing " + args[0])
			i, err := a.client().Import(ctx, client.ImportRequest{Path: path, Name: name}, tell)
			if end(); err == nil && i.ArchiveName != "" {
				printable.Fprintf(a.Messages, "imported as %s; the archive names it %s: --name %s gives it that name\n",
					i.Name, i.ArchiveName, i.ArchiveName)
			}
			return i, err
		}, printName)
	imp.Flags().StringVarP(&name, "name", "t", "", "name[:tag] (default: the file's name)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests alone")
	c.AddCommand(imp, a.imagesRmCmd())
	v = newView(c.Flags(), imageConditions, "f", "list "+imageFilter)
	return c
}

func (a *commands) tagCmd() *cobra.Command {
	c := answer(a, "tag IMAGE NAME", "give an image another name", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) (*client.ImageInfo, error) {
			image, err := a.shortDigest(ctx, args[0])
			if err != nil {
				return nil, err
			}
			return a.client().Tag(ctx, client.TagRequest{Image: image, Name: args[1]})
		}, printName)
	c.Long = `NAME is name[:tag]; an image that had it loses it. The policy decides by names: what
it permits to images of a name is permitted to what has it.`
	return c
}

// withoutKind is the path of an archive before which others' tools want its kind, which
// its content tells.
func withoutKind(path string) string {
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	for _, kind := range []string{"docker-archive:", "oci-archive:", "oci:", "dir:"} {
		if rest, ok := strings.CutPrefix(path, kind); ok {
			return rest
		}
	}
	return path
}

// image describes an image, or says which subcommand may have been meant.
func (a *commands) image(ctx context.Context, c *cobra.Command, arg string, v *view[client.ImageInfo]) error {
	if len(v.filters) > 0 {
		return app.Usagef("--filter is for the list of images")
	}
	ref, err := a.imageRef(ctx, arg)
	if err != nil {
		return err
	}
	i, err := a.client().Image(ctx, ref)
	if client.IsNotFound(err) {
		if hint := imagesInstead[arg]; hint != "" {
			return fmt.Errorf("%w (%s)", err, hint)
		}
		if isFile(arg) {
			return aFile(arg, err)
		}
		c.SuggestionsMinimumDistance = 2
		near := slices.DeleteFunc(c.SuggestionsFor(arg), func(name string) bool { return name == "rm" })
		if len(near) > 0 {
			return fmt.Errorf("%w (did you mean freejail images %s?)", err, strings.Join(near, " or "))
		}
	}
	if err != nil {
		return err
	}
	if v.format != "" {
		return printAs(a, v.format, i)
	}
	return a.Print(i, func(w io.Writer) { describe(w, i) })
}

// imageOrNone takes one image at most, and says what the words of others' tools are here.
func imageOrNone(c *cobra.Command, args []string) error {
	if len(args) > 1 && imagesInstead[args[0]] != "" {
		return app.Usagef("freejail images has no command %q: %s", args[0], imagesInstead[args[0]])
	}
	return cobra.MaximumNArgs(1)(c, args)
}

// isFile tells whether a name that is no path is also that of a file here.
func isFile(arg string) bool {
	if arg == "" || strings.ContainsRune(arg, '/') {
		return false
	}
	fi, err := os.Stat(arg)
	return err == nil && fi.Mode().IsRegular()
}

// aFile adds to the error of an image that is not there by what path it may have been meant.
func aFile(arg string, err error) error {
	if client.IsNotFound(err) && isFile(arg) {
		return fmt.Errorf("%w; there is a file: ./%s", err, arg)
	}
	return err
}

// printTotals tells of all images together what the rows do not: layers of several count once.
func printTotals(w io.Writer, names int, parts []client.DiskPart) {
	for _, p := range parts {
		if p.Kind == "images" {
			printable.Fprintf(w, "%s of %s: %s as stored (compressed, each layer once, not unpacked), of which %s are "+
				"of several images, and %s of none; freejail df has all\n", printable.Count(names, "name"),
				printable.Count(p.Count, "image"), units.BytesSize(float64(p.Bytes)),
				units.BytesSize(float64(p.Shared)), units.BytesSize(float64(p.Reclaimable)))
		}
	}
}

// printDigests prints each once.
func printDigests(w io.Writer, list []client.ImageInfo) {
	seen := map[string]bool{}
	for _, i := range list {
		if !seen[i.Digest] {
			printable.Fprintln(w, i.Digest)
		}
		seen[i.Digest] = true
	}
}

var hexDigits = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// shortDigest is the digest of the one image whose digest begins with the digits that are
// given, as `freejail images` shows them. A name of digits is a name.
func (a *commands) shortDigest(ctx context.Context, arg string) (string, error) {
	if !hexDigits.MatchString(arg) {
		return arg, nil
	}
	list, err := a.client().Images(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, i := range list {
		if i.Name == arg || strings.HasPrefix(i.Name, arg+":") {
			return arg, nil
		}
		if strings.HasPrefix(i.Digest, "sha256:"+arg) && !slices.Contains(found, i.Digest) {
			found = append(found, i.Digest)
		}
	}
	switch len(found) {
	case 0:
		return arg, nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%q is the beginning of the digests of %d images, give more of it: %s", arg, len(found),
		strings.Join(found, ", "))
}

// imageRef is an image of the arguments in the daemon's words.
func (a *commands) imageRef(ctx context.Context, arg string) (string, error) {
	return a.shortDigest(ctx, imageRef(arg))
}

func imageRow(i client.ImageInfo) []string {
	if i.Problem != "" {
		return []string{i.Name, short(i.Digest), "-", "-", "-", "-", "-", i.Problem}
	}
	return []string{i.Name, short(i.Digest), i.OS + "/" + i.Arch, units.BytesSize(float64(i.Size)),
		bytesOrNone(i.Shared), bytesOrNone(i.Unpacked), cmp.Or(strings.Join(i.Tasks, " "), "-"), i.Summary}
}

func printName(w io.Writer, i *client.ImageInfo) { printable.Fprintln(w, i.Name, i.Digest) }

func printNames(w io.Writer, list []client.ImageInfo) {
	for i := range list {
		printName(w, &list[i])
	}
}

func bytesOrNone(n int64) string {
	if n == 0 {
		return "-"
	}
	return units.BytesSize(float64(n))
}

func describe(w io.Writer, i *client.ImageInfo) {
	printable.Fprintf(w, "%s  %s\n", i.Name, i.Digest)
	printable.Fprintf(w, "%s/%s, %s (shared %s, unpacked %s), created %s\n", i.OS, i.Arch,
		units.BytesSize(float64(i.Size)), bytesOrNone(i.Shared), bytesOrNone(i.Unpacked),
		i.Created.Format(time.DateOnly))
	if i.Summary != "" {
		printable.Fprintln(w, i.Summary)
	}
	if len(i.Signers) > 0 {
		printable.Fprintln(w, "Signed by:", strings.Join(i.Signers, ", "))
	}
	for _, part := range []struct {
		title string
		lines []string
	}{{"Parameters", i.Parameters}, {"Ports", i.Ports}, {"Asks for", i.Requests}, {"Run by", i.Tasks}} {
		if len(part.lines) > 0 {
			printable.Fprintf(w, "%s:\n", part.title)
		}
		for _, line := range part.lines {
			printable.Fprintf(w, "  %s\n", line)
		}
	}
	if i.Usage != "" {
		printable.Fprintf(w, "Usage:\n%s", printable.Lines(printable.Block("  | ", i.Usage)))
	}
}

func (a *commands) gcCmd() *cobra.Command {
	var req client.GCRequest
	c := answer(a, "gc", "remove images and layers that nothing uses", cobra.NoArgs,
		func(ctx context.Context, _ []string) (*client.GCResult, error) { return a.client().GC(ctx, req) },
		func(w io.Writer, r *client.GCResult) {
			for _, name := range r.Images {
				printable.Fprintln(w, "forgot", name)
			}
			for _, p := range r.Problems {
				printable.Fprintln(w, "left:", p)
			}
			printable.Fprintf(w, "removed %s, %s, %s of layers\n", printable.Count(r.Tasks, "ended task"),
				printable.Count(r.Chains, "unpacked image"), units.BytesSize(float64(r.Bytes)))
		})
	c.Long = `Removes ended tasks of "freejail run", unused images that jobs gave by a path or
pulled, and unpacked trees and layers that no image needs. Images of tasks, and
those that an operator imported or pulled, stay. The gc block of the host's
configuration has the defaults.`
	c.Flags().Func("older", "remove images of jobs not used for this `TIME`, such as 24h; 0: none by age",
		duration(&req.Older))
	c.Flags().Func("max-size", "remove the least recently used of them above this `SIZE`, such as 20GiB; 0: no limit",
		func(text string) error {
			n, err := units.RAMInBytes(text)
			if err != nil {
				return errors.New("not a valid size (for example 20GiB)")
			}
			req.MaxSize = &n
			return nil
		})
	return c
}

// imageRef makes a path absolute for the daemon, which has another directory. A
// reference to a registry is not a path, unless there is a file of that name.
func imageRef(ref string) string {
	if !strings.ContainsRune(ref, '/') {
		return ref
	}
	host, _, _ := strings.Cut(ref, "/")
	plain := host != "." && host != ".." && host != "" // begins as a name does
	if _, err := os.Stat(ref); err != nil && plain {
		return ref
	}
	if abs, err := filepath.Abs(ref); err == nil {
		return abs
	}
	return ref
}

// showProgress shows how far an image has come, until end.
func showProgress(title string) (tell func(client.ImageProgress), end func()) {
	bar := app.NewBar(os.Stderr, title)
	return func(p client.ImageProgress) {
		note := "reading"
		if p.Layers > 0 {
			note = fmt.Sprintf("%d of %d layers", p.LayersDone, p.Layers)
		}
		if p.Reused > 0 {
			note += fmt.Sprintf(", %s reused", units.BytesSize(float64(p.Reused)))
		}
		bar.Set(p.Done, p.Size, note)
	}, bar.End
}

func (a *commands) pullCmd() *cobra.Command {
	var timeout time.Duration
	c := answer(a, "pull IMAGE", "pull an image from a registry", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) (*client.ImageInfo, error) {
			tell, end := showProgress("pulling " + args[0])
			i, err := a.client().Pull(ctx, client.PullRequest{Ref: args[0], Timeout: client.Duration(timeout)}, tell)
			if end(); err == nil {
				a.tellPulled(i)
			}
			return i, err
		}, printName)
	c.Long = `IMAGE is HOST/NAME:TAG or HOST/NAME@sha256:... The registry is asked even if the
image is on the host. Mirrors, credentials and certificates are those of the
daemon's configuration. The image stays until "freejail images rm".`
	c.Flags().DurationVar(&timeout, "timeout", time.Hour, "give up after this time; the next pull resumes")
	return c
}

// tellPulled tells what was not fetched, and where the rest came from, if the registry has mirrors.
func (a *commands) tellPulled(i *client.ImageInfo) {
	if i.Reused > 0 {
		printable.Fprintf(a.Messages, "%s of %s were reused from other layers of this host\n",
			units.BytesSize(float64(i.Reused)), units.BytesSize(float64(i.Size)))
	}
	var sent []string
	for _, s := range i.Sources {
		if s.PassedOver != "" {
			printable.Fprintf(a.Messages, "mirror %s was passed over: %s\n", s.Host, s.PassedOver)
		}
		if s.Bytes > 0 {
			sent = append(sent, fmt.Sprintf("%s from %s", units.BytesSize(float64(s.Bytes)), s.Host))
		}
	}
	if len(sent) > 0 {
		printable.Fprintln(a.Messages, strings.Join(sent, ", "))
	}
}

func (a *commands) doctorCmd() *cobra.Command {
	var config string
	c := app.Command("doctor", "report what this host lacks, and how to fix it", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			checks, err := a.client().Doctor(ctx)
			away := errors.Is(err, client.ErrNoDaemon)
			if away { // the rest can be told without it
				checks, err = a.withoutDaemon(config)
			}
			if err != nil {
				return err
			}
			bad := false
			for _, c := range checks {
				bad = bad || c.Status == "error"
			}
			switch err := a.Print(checks, func(w io.Writer) { printChecks(w, checks) }); {
			case err != nil:
				return err
			case away:
				return app.ExitCode(exitNoDaemon)
			case bad:
				return app.ExitCode(app.Failed)
			}
			return nil
		})
	c.Flags().StringVar(&config, "config", "",
		"the configuration, if no daemon runs (default: "+defaultConfig+", if it exists)")
	return c
}

// defaultConfig is where the rc.d script looks.
const defaultConfig = client.DefaultConfig

// withoutDaemon examines a host on which no daemon answers.
func (a *commands) withoutDaemon(config string) ([]client.Check, error) {
	if config == "" {
		if _, err := os.Stat(defaultConfig); err == nil {
			config = defaultConfig
		}
	}
	start := "freejail daemon"
	if config != "" {
		start += " --config " + config
	}
	if runtime.GOOS == "freebsd" {
		start = "sysrc freejail_enable=YES && service freejail start"
	}
	checks := []client.Check{{Name: "daemon", Status: "error", Detail: "none answers on " + a.socket, Fix: start}}
	cfg, err := host.LoadConfig(config)
	if err != nil {
		bad := client.Check{Name: "policy", Status: "error", Detail: err.Error(), Fix: "correct " + config}
		return append(checks, bad), nil
	}
	return append(checks, host.Examine(cfg, nil)...), nil
}

// printChecks puts a remedy on a line of its own, to be copied.
func printChecks(w io.Writer, checks []client.Check) {
	for _, c := range checks {
		printable.Fprintf(w, "%-8s %-12s %s\n", c.Status, c.Name, c.Detail)
		if c.Fix != "" {
			printable.Fprintf(w, "%21s %s\n", "->", c.Fix)
		}
	}
}
