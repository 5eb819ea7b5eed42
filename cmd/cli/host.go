package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) imagesCmd() *cobra.Command {
	c := &cobra.Command{Use: "images [IMAGE]", Short: "list the images of this host, or describe one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				i, err := a.client().Image(cmd.Context(), imageRef(args[0]))
				if err != nil {
					return err
				}
				return a.print(i, func(w io.Writer) { describe(w, i) })
			}
			list, err := a.client().Images(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				var rows [][]string
				for _, i := range list {
					if i.Problem != "" {
						rows = append(rows, []string{i.Name, short(i.Digest), "-", "-", "-", "-", "-", i.Problem})
						continue
					}
					rows = append(rows, []string{i.Name, short(i.Digest), i.OS + "/" + i.Arch, units.BytesSize(float64(i.Size)),
						bytesOrNone(i.Shared), bytesOrNone(i.Unpacked), cmp.Or(strings.Join(i.Tasks, " "), "-"), i.Summary})
				}
				table(w, "NAME\tDIGEST\tPLATFORM\tSIZE\tSHARED\tUNPACKED\tTASKS\tSUMMARY", rows)
			})
		}}
	var name string
	imp := &cobra.Command{Use: "import ARCHIVE", Short: "take an OCI archive or layout directory into the store", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			tell, end := showProgress("importing " + args[0])
			i, err := a.client().Import(cmd.Context(), client.ImportRequest{Path: path, Name: name}, tell)
			end()
			if err != nil {
				return err
			}
			return a.print(i, func(w io.Writer) { printable.Fprintln(w, i.Name, i.Digest) })
		}}
	imp.Flags().StringVarP(&name, "name", "t", "", "name[:tag] (default: the file's name)")
	rm := &cobra.Command{Use: "rm IMAGE", Short: "forget an image's name; `freejail gc` frees its space", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.client().RemoveImage(cmd.Context(), args[0]) }}
	c.AddCommand(imp, rm)
	return c
}

func bytesOrNone(n int64) string {
	if n == 0 {
		return "-"
	}
	return units.BytesSize(float64(n))
}

func describe(w io.Writer, i *client.ImageInfo) {
	printable.Fprintf(w, "%s  %s\n%s/%s, %s (shared %s, unpacked %s), created %s\n", i.Name, i.Digest, i.OS, i.Arch, units.BytesSize(float64(i.Size)),
		bytesOrNone(i.Shared), bytesOrNone(i.Unpacked), i.Created.Format("2006-01-02"))
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
	var older time.Duration
	var maxSize string
	c := &cobra.Command{Use: "gc", Short: "remove what no task and no image needs any more", Args: cobra.NoArgs,
		Long: `Removes ended tasks of "freejail run", images that jobs gave by a path and that
were not used for long, unpacked trees and layers that no image needs any more.
What a task holds or someone has named stays. The host configuration's gc block
has the defaults.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var req client.GCRequest
			if cmd.Flags().Changed("older") {
				req.Older = &older
			}
			if cmd.Flags().Changed("max-size") {
				n, err := units.RAMInBytes(maxSize)
				if err != nil {
					return usageError{fmt.Errorf("--max-size %s: want a size such as 20GiB", maxSize)}
				}
				req.MaxSize = &n
			}
			r, err := a.client().GC(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) {
				for _, name := range r.Images {
					printable.Fprintln(w, "forgot", name)
				}
				for _, p := range r.Problems {
					printable.Fprintln(w, "left:", p)
				}
				printable.Fprintf(w, "removed %d ended tasks, %d unpacked images, %s of layers\n", r.Tasks, r.Chains, units.BytesSize(float64(r.Bytes)))
			})
		}}
	c.Flags().DurationVar(&older, "older", 0, "forget images given by a path that were not used for so long, such as 24h; 0 none by age")
	c.Flags().StringVar(&maxSize, "max-size", "", "forget the longest unused of them while all images are larger than this, such as 20GiB; 0 no limit")
	return c
}

// imageRef makes a path absolute for the daemon, which has another directory. A
// reference to a registry is no path, unless there is a file of that name.
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
		bar.Set(p.Done, p.Size, note)
	}, bar.End
}

func (a *commands) pullCmd() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "pull IMAGE", Short: "take an image from a registry into the store", Args: cobra.ExactArgs(1),
		Long: `IMAGE is HOST/NAME:TAG or HOST/NAME@sha256:..., asked for anew even if it is
there. Mirrors, credentials and certificates are those of the daemon's
configuration. An image that was pulled so stays until "freejail images rm".`,
		RunE: func(cmd *cobra.Command, args []string) error {
			tell, end := showProgress("pulling " + args[0])
			i, err := a.client().Pull(cmd.Context(), client.PullRequest{Ref: args[0], Timeout: client.Duration(timeout)}, tell)
			end()
			if err != nil {
				return err
			}
			return a.print(i, func(w io.Writer) { printable.Fprintln(w, i.Name, i.Digest) })
		}}
	c.Flags().DurationVar(&timeout, "timeout", time.Hour, "give up after this time; the next pull goes on where this one ended")
	return c
}

func (a *commands) doctorCmd() *cobra.Command {
	var config string
	c := &cobra.Command{Use: "doctor", Short: "tell what this host lacks and how to get it", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		checks, err := a.client().Doctor(cmd.Context())
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
		switch err := a.print(checks, func(w io.Writer) { printChecks(w, checks) }); {
		case err != nil:
			return err
		case away:
			return exitCode(exitNoDaemon)
		case bad:
			return exitCode(exitFailed)
		}
		return nil
	}}
	c.Flags().StringVar(&config, "config", "", "the host's configuration, where no daemon runs (default: "+defaultConfig+", if it is there)")
	return c
}

// defaultConfig is where the rc.d script looks.
const defaultConfig = "/usr/local/etc/freejail.hcl"

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
	cfg, err := daemon.LoadConfig(config)
	if err != nil {
		return append(checks, client.Check{Name: "policy", Status: "error", Detail: err.Error(), Fix: "mend " + config}), nil
	}
	return append(checks, daemon.HostChecks(cfg)...), nil
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

func (a *commands) versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.print(map[string]string{"version": a.version}, func(w io.Writer) { printable.Fprintln(w, "freejail", a.version) })
	}}
}
