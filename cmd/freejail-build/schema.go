package main

import (
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/image"
)

func (a *commands) schemaCmd() *cobra.Command {
	return &cobra.Command{Use: "schema", Short: "print the JSON Schema of an image's manifest", Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(image.ManifestSchema)
			return err
		}}
}
