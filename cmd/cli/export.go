package cli

import (
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) exportCmd() *cobra.Command {
	var list bool
	var remove string
	c := &cobra.Command{Use: "export IMAGE", Short: "serve an image to other hosts as a root over NFS", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case list && remove == "" && len(args) == 0:
				return a.listExports(cmd)
			case remove != "" && !list && len(args) == 0:
				return a.client().RemoveExport(cmd.Context(), remove)
			case len(args) != 1 || list || remove != "":
				return usageError{errors.New("want an image to export, --list, or --remove IMAGE")}
			}
			e, err := a.client().Export(cmd.Context(), client.ExportRequest{Image: imageRef(args[0])})
			if err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) {
				printable.Fprintf(w, "%s %s\nclients name it by nfs { servers = [%q] }\n", strings.Join(e.Names, ","), e.Digest, e.URL)
				printProblem(w, *e)
			})
		}}
	c.Flags().BoolVar(&list, "list", false, "list what this host exports")
	c.Flags().StringVar(&remove, "remove", "", "stop exporting an image, by its name there or its digest; tasks that have their root from it lose it")
	return c
}

func (a *commands) listExports(cmd *cobra.Command) error {
	list, err := a.client().Exports(cmd.Context())
	if err != nil {
		return err
	}
	return a.print(list, func(w io.Writer) {
		var rows [][]string
		for _, e := range list {
			rows = append(rows, []string{strings.Join(e.Names, ","), e.Digest, e.Path})
		}
		table(w, "NAMES\tDIGEST\tPATH", rows)
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
