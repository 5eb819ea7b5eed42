package main

import (
	"testing"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/internal/testmanual"
)

func TestManual(t *testing.T) {
	testmanual.Check(t, "../../docs/cli.md", newRoot())
}

func newRoot() *cobra.Command { return (&commands{app.New("freejail-build", "", nil, nil)}).root() }

func TestCommandsInThePages(t *testing.T) { testmanual.CheckCommands(t, "../..", newRoot) }
