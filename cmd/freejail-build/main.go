// Command freejail-build makes, describes, checks, unpacks, moves, signs and serves
// images.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/internal/printable"
)

// version is set by the linker.
var version = "dev"

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(untilSignal(), os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// commands has where to write: guarded, so that nothing of an image steers a terminal,
// and terminal for bars.
type commands struct{ out, messages, terminal io.Writer }

func run(ctx context.Context, args []string, out, messages io.Writer) int {
	a := &commands{printable.NewWriter(out), printable.NewWriter(messages), messages}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if why, ok := stopOf(ctx); ok {
		printable.Fprintf(messages, "freejail-build: %v: %v\n", why, err)
		return why.code()
	}
	if !errors.Is(err, errFindings) {
		printable.Fprintf(messages, "freejail-build: %v\n", err)
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag") {
		return exitUsage
	}
	return exitFailed
}

func (a *commands) root() *cobra.Command {
	root := &cobra.Command{Use: "freejail-build", Short: "make images for freejail, look into them, move, sign and serve them", SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true}}
	root.AddCommand(a.buildCmd(), a.cacheCmd(), a.importCmd(), a.inspectCmd(), a.historyCmd(), a.diffCmd(), a.validateCmd(), a.schemaCmd(), a.unpackCmd(),
		a.pullCmd(), a.pushCmd(), a.copyCmd(), a.serveCmd(), a.keygenCmd(), a.signCmd(), a.verifyCmd(), a.versionCmd())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetOut(a.out)
	root.SetErr(a.messages)
	return root
}

// exactly checks the number of arguments.
func exactly(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s: see freejail-build %s --help", c.Name(), names, c.Name())
		}
		return nil
	}
}

// atLeast is exactly for n or more.
func atLeast(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s takes %s: see freejail-build %s --help", c.Name(), names, c.Name())
		}
		return nil
	}
}

// platform reads os/arch; empty is the zero value.
func platform(text string) (p ocispec.Platform, err error) {
	if text == "" {
		return p, nil
	}
	var ok bool
	if p.OS, p.Architecture, ok = strings.Cut(text, "/"); !ok || p.OS == "" || p.Architecture == "" || strings.Contains(p.Architecture, "/") {
		return p, usagef("--platform %s: want OS/ARCHITECTURE, such as freebsd/arm64", text)
	}
	return p, nil
}

func (a *commands) versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "print the version", Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			_, err := printable.Fprintln(a.out, "freejail-build", version)
			return err
		}}
}
