package main

import (
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/internal/testmanual"
)

func TestManual(t *testing.T) {
	testmanual.Check(t, "../../docs/cli.md", (&commands{app.New("freejail-build", "", nil, nil)}).root())
}
