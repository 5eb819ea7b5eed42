// Command freejail-build makes, describes, checks, unpacks, moves, signs and serves
// images.
package main

import (
	"context"
	"io"
	"os"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(app.UntilSignal(syscall.SIGHUP), os.Args[1:], os.Stdout, os.Stderr))
}

// commands are what all commands share.
type commands struct{ *app.App }

func run(ctx context.Context, args []string, out, messages io.Writer) int {
	a := &commands{app.New("freejail-build", version, out, messages)}
	a.Instead = instead
	return a.Run(ctx, a.root(), args)
}

// instead has the words of other tools that freejail-build has not.
var instead = map[string]string{
	"exec":   "tasks are freejail's: freejail exec",
	"export": "use freejail-build unpack, or copy",
	"image":  "leave the word out: freejail-build inspect, ...",
	"images": "images of this host are listed by freejail images",
	"list":   "images of this host are listed by freejail images",
	"load":   "use freejail load, or freejail-build copy of an archive",
	"ls":     "images of this host are listed by freejail images",
	"prune":  "use freejail-build cache prune",
	"ps":     "tasks are freejail's: freejail ps",
	"rm":     "images of this host are removed by freejail images rm",
	"rmi":    "images of this host are removed by freejail images rm",
	"run":    "tasks are freejail's: freejail run",
	"save":   "use freejail save, or freejail-build copy",
	"tag":    "use freejail tag for an image of this host, and freejail-build copy for one of a registry",
}

func (a *commands) root() *cobra.Command {
	c := a.Root("make images for freejail, look into them, move, sign and serve them",
		a.buildCmd(), a.cacheCmd(), a.importCmd(), a.inspectCmd(), a.historyCmd(), a.diffCmd(), a.validateCmd(),
		a.schemaCmd(), a.unpackCmd(), a.pullCmd(), a.pushCmd(), a.copyCmd(), a.serveCmd(), a.keygenCmd(), a.signCmd(),
		a.verifyCmd(), a.signBlobCmd(), a.verifyBlobCmd(),
		a.approvalsCmd())
	c.AddCommand(a.loginCmd(), a.logoutCmd())
	a.JSONFlag(c.PersistentFlags())
	return c
}

// platformFlag adds --platform; without it p stays as it is.
func platformFlag(c *cobra.Command, p *ocispec.Platform, usage string) {
	c.Flags().Func("platform", usage, func(text string) (err error) {
		*p, err = image.ParsePlatform(text)
		return err
	})
}

// unknownFlag adds the way around a check of names, which only a build has.
func unknownFlag(c *cobra.Command, list *[]string) {
	c.Flags().StringArrayVar(list, "unknown-parameter", nil,
		"accept this `NAME` of a jail permission or parameter, which newer kernels or modules have; repeatable")
}
