package cli

import (
	"testing"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/internal/testmanual"
)

func TestManual(t *testing.T) { testmanual.Check(t, "../../docs/cli.md", newCommands("").root()) }

func TestCommandsInThePages(t *testing.T) {
	testmanual.CheckCommands(t, "../..", func() *cobra.Command { return newCommands("").root() })
}
