package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) exportCmd() *cobra.Command {
	var list bool
	var remove string
	c := app.Command("export IMAGE", "serve an image to other hosts as a root over NFS", cobra.MaximumNArgs(1),
		func(ctx context.Context, args []string) error {
			switch {
			case list && remove == "" && len(args) == 0:
				return a.listExports(ctx)
			case remove != "" && !list && len(args) == 0:
				return a.client().RemoveExport(ctx, remove)
			case len(args) != 1 || list || remove != "":
				return app.Usagef("expected an image to export, --list, or --remove IMAGE")
			}
			image, err := a.imageRef(ctx, args[0])
			if err != nil {
				return err
			}
			end := a.showing(ctx, "")
			e, err := a.client().Export(ctx, client.ExportRequest{Image: image})
			if end(); err != nil && (client.IsNotFound(err) || a.isTask(ctx, args[0])) {
				return fmt.Errorf("%w (%s)", aFile(args[0], err), exportHint)
			}
			if err != nil {
				return err
			}
			return a.Print(e, func(w io.Writer) {
				printable.Fprintf(w, "%s %s\n", strings.Join(e.Names, ","), e.Digest)
				printable.Fprintf(w, "clients use it with nfs { servers = [%q] }\n", e.URL)
				printProblem(w, *e)
			})
		})
	c.Flags().BoolVar(&list, "list", false, "list what this host exports")
	c.Flags().StringVar(&remove, "remove", "",
		"stop exporting an image, by name or digest; tasks whose root it is lose it")
	return c
}

// isTask tells whether the name of an image may have been meant as a task's.
func (a *commands) isTask(ctx context.Context, name string) bool {
	_, err := a.client().Task(ctx, name)
	return err == nil
}

func (a *commands) listExports(ctx context.Context) error {
	list, err := a.client().Exports(ctx)
	if err != nil {
		return err
	}
	return a.Print(list, func(w io.Writer) {
		table(w, "NAMES\tDIGEST\tPATH", list, func(e client.Export) []string {
			return []string{strings.Join(e.Names, ","), e.Digest, e.Path}
		})
		if len(list) > 0 {
			printProblem(w, list[0])
		}
	})
}

func printProblem(w io.Writer, e client.Export) {
	if e.Problem != "" {
		printable.Fprintf(w, "not served yet: %s\n%21s %s\n", e.Problem, "->", e.Fix)
	}
}
