// Command freejail-build makes, describes, checks, unpacks, moves, signs and serves
// images.
package main

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
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
	return a.Run(ctx, a.root(), args)
}

func (a *commands) root() *cobra.Command {
	return a.Root("make images for freejail, look into them, move, sign and serve them",
		a.buildCmd(), a.cacheCmd(), a.importCmd(), a.inspectCmd(), a.historyCmd(), a.diffCmd(), a.validateCmd(),
		a.schemaCmd(), a.unpackCmd(), a.pullCmd(), a.pushCmd(), a.copyCmd(), a.serveCmd(), a.keygenCmd(), a.signCmd(),
		a.verifyCmd())
}

// platform reads os/arch; empty is the zero value.
func platform(text string) (p ocispec.Platform, err error) {
	if text == "" {
		return p, nil
	}
	list := strings.Split(text, "/")
	if len(list) != 2 || list[0] == "" || list[1] == "" {
		return p, app.Usagef("--platform %s: expected OS/ARCHITECTURE, such as freebsd/arm64", text)
	}
	return ocispec.Platform{OS: list[0], Architecture: list[1]}, nil
}
