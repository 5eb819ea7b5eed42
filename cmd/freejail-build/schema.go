package main

import (
	"context"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
)

func (a *commands) schemaCmd() *cobra.Command {
	return app.Command("schema", "print the JSON Schema of an image's manifest", cobra.NoArgs,
		func(_ context.Context, _ []string) error {
			_, err := a.Out.Write(image.ManifestSchema)
			return err
		})
}
