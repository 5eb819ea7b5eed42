package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) configCmd() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "the host's configuration"}
	c.AddCommand(a.configInitCmd())
	return c
}

func (a *commands) configInitCmd() *cobra.Command {
	var file string
	var show bool
	c := app.Command("init", "write a configuration for this host", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			text := host.Look(ctx, runtime.GOOS).Text()
			if show {
				printable.Fprintf(a.Out, "%s", printable.Lines(text))
				return nil
			}
			if err := writeConfig(file, text); err != nil {
				return err
			}
			return a.Print(map[string]string{"file": file}, func(w io.Writer) {
				printable.Fprintf(w, "%s is written; `freejail daemon --check --config %s` checks it\n"+
					"its policy permits nothing yet: the permit block at its end is a comment\n", file, file)
			})
		})
	c.Long = `Asks the host for its file systems and pools, its interfaces, and the agents of Consul
and Nomad on it. What it has is set, what else could be is in comments, and so is what
"freejail doctor" finds missing, with its commands. A file that is there is never changed.`
	c.Flags().StringVarP(&file, "output", "o", defaultConfig, "the file")
	c.Flags().BoolVar(&show, "print", false, "print it instead")
	return c
}

// writeConfig makes a file, which must not be there.
func writeConfig(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there, and is never changed: --print shows what would be written, -o FILE writes it "+
			"elsewhere", file)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		err = errors.Join(err, os.Remove(file)) // a part of a configuration would be read as one
	}
	return err
}
