package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) dfCmd() *cobra.Command {
	var format string
	c := app.Command("df", "show what freejail has on the disk", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			d, err := a.client().DiskUse(ctx)
			if err != nil {
				return err
			}
			if format != "" {
				return printEach(a, format, d.Parts)
			}
			return a.Print(d, func(w io.Writer) { printDisk(w, d) })
		})
	c.Long = `Images are layers as they are stored, each once; unpacked ones the trees of which
tasks' roots are made; roots what tasks wrote there; records their journals and logs.
"freejail gc" frees what is reclaimable. Volumes are directories of the host, and are
not measured.`
	c.Flags().StringVar(&format, "format", "", formatUsage)
	return c
}

func printDisk(w io.Writer, d *client.DiskUse) {
	sum, free := int64(0), int64(0)
	table(w, "KIND\tTOTAL\tACTIVE\tSIZE\tSHARED\tRECLAIMABLE", d.Parts, func(p client.DiskPart) []string {
		row := []string{p.Kind, fmt.Sprint(p.Count), fmt.Sprint(p.Active), "-", "-", "-"}
		if p.Measured {
			sum, free = sum+p.Bytes, free+p.Reclaimable
			row[3], row[4], row[5] = units.BytesSize(float64(p.Bytes)), bytesOrNone(p.Shared),
				units.BytesSize(float64(p.Reclaimable))
		}
		return row
	})
	printable.Fprintf(w, "%s in %s, of which `freejail gc` frees %s; %s of %s are free there\n",
		units.BytesSize(float64(sum)), d.StateDir, units.BytesSize(float64(free)), units.BytesSize(float64(d.Free)),
		units.BytesSize(float64(d.Total)))
}
