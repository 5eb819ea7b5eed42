package cli

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"

	"github.com/freejail/freejail/daemon/client"
)

func TestTmpfsHasOptions(t *testing.T) {
	var f runFlags
	fl := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.task(fl)
	check(t, fl.Parse([]string{"--tmpfs", "/tmp", "--tmpfs", "/run:size=64m,mode=1777"}))
	want := []client.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/tmp"},
		{Type: "tmpfs", Source: "tmpfs", Target: "/run", Options: "size=64m,mode=1777"}}
	if !slices.Equal(f.Volumes, want) {
		t.Errorf("--tmpfs: %+v", f.Volumes)
	}
}
