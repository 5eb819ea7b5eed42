package cli

import (
	"testing"

	"github.com/freejail/freejail/internal/testmanual"
)

func TestManual(t *testing.T) { testmanual.Check(t, "../../docs/cli.md", newCommands("").root()) }
