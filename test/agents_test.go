package test

import (
	"os"
	"syscall"
	"testing"

	"github.com/freejail/freejail/internal/testimage"
)

// TestAgentUpgraded has an agent take over what one of an older version runs, which is
// in NOMAD_BEFORE_BIN.
func TestAgentUpgraded(t *testing.T) {
	old := os.Getenv("NOMAD_BEFORE_BIN")
	if old == "" {
		t.Skip("NOMAD_BEFORE_BIN is not set; `make test-agents` sets it")
	}
	before := lookAtHost(t)
	t.Run("cluster", func(t *testing.T) {
		c := startClusterOf(t, old)
		c.imports(t, "probe", probeImage)
		served, task := job("served", "serve")
		withPort(served, task)
		c.run(t, served)
		a := c.one(t, served, "running")
		c.passes(t, a)
		failed, _ := job("failed", "exit", "7")
		c.run(t, batch(failed))
		c.one(t, failed, "failed")
		j, ticks, pid := ticking(t, c, "upgraded")

		check(t, c.nomadAgent.End(syscall.SIGINT))
		c.nomadAgent.Use(program(t, "NOMAD_BIN"))
		check(t, c.nomadAgent.Start(t.Context()))

		c.one(t, j, "running")
		c.runsOn(t, ticks, pid)
		c.passes(t, a)
		c.passes(t, c.one(t, served, "running"))
		code, out, _ := c.exec(t, ticks, testimage.Program, "probe", "exit", "43")
		if code != 43 {
			t.Errorf("exec: %d %q", code, out)
		}
		c.endsWith(t, j, "Exit Code: 9")
		c.stop(t, *served.ID)
		c.idle(t)
	})
	before.same(t, lookAtHost(t))
}
