package printable

import (
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes rows under a header, whose titles have tabs between them. Every
// cell is one line of a bounded length.
func Table(w io.Writer, header string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	text := header + "\n"
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = Cell(c)
		}
		text += strings.Join(cells, "\t") + "\n"
	}
	if _, err := io.WriteString(t, text); err != nil {
		return err
	}
	return t.Flush()
}
