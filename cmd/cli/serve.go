package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/mirror"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/signals"
)

func (a *commands) serveCmd() *cobra.Command {
	var config, stateDir string
	var asMirror bool
	c := app.Command("serve --mirror --config FILE", "give images of this host to other hosts", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			tell := func(format string, args ...any) {
				printable.Fprintf(a.Messages, "%s mirror: "+format+"\n",
					append([]any{time.Now().Format(time.RFC3339)}, args...)...)
			}
			signals.OutliveReaders() // of its log
			switch {
			case mirror.IsChild():
				return mirror.Child(tell)
			case !asMirror:
				return app.Usagef("expected --mirror; a directory is served as a registry by freejail-build serve")
			case config == "":
				return app.Usagef("--config is needed: the block mirror of the host's file says which images are " +
					"given, and to whom")
			}
			own, err := os.Executable()
			if err != nil {
				return err
			}
			if config, err = filepath.Abs(config); err != nil {
				return err
			}
			m := &mirror.Mirror{Config: config, StateDir: stateDir, Command: []string{own, "serve"}, Tell: tell}
			if err := m.Run(ctx); err != nil {
				return fmt.Errorf("mirror: %w", err)
			}
			return nil
		})
	c.Long = `Give images that this host has pulled to other hosts, which name it in the
mirrors of their registry blocks. The block mirror of the host's configuration
says which images, to whom, and where. Manifests and blobs are given by their
digests alone; tags are the registry's to say. The process that answers has no
rights. A change of the configuration, and of the files that the block names, is
followed without an end of transfers.`
	c.Flags().BoolVar(&asMirror, "mirror", false, "serve as a mirror of the registries that the images came from")
	c.Flags().StringVar(&config, "config", "", "the host's configuration (freejail.hcl)")
	c.Flags().StringVar(&stateDir, "state-dir", "", "overrides state_dir of the configuration")
	return c
}
