package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/boot"
)

// startedAgain waits until an allocation whose job allows no restart runs another
// process, and its events tell why.
func (c *cluster) startedAgain(t *testing.T, j *nomad.Job, before *nomad.Allocation, why string) {
	t.Helper()
	await(t, "the task to run again: "+why, func() error {
		a, _, err := c.nomad.Allocations().Info(before.ID, nil)
		if err != nil {
			return err
		}
		s := a.TaskStates["probe"]
		if all := messages(s); !slices.ContainsFunc(all, func(m string) bool { return strings.Contains(m, why) }) ||
			s.State != "running" {
			return fmt.Errorf("it is %s: %q", s.State, all)
		}
		if s.Restarts != 0 || s.Failed {
			t.Errorf("it was restarted %d times, failed: %v", s.Restarts, s.Failed)
		}
		return nil
	})
	c.awaitLog(t, before, "tick 3\n")
	c.endsWith(t, j, "Exit Code: 9")
}

// The agent ends first, as rc(8) and systemd have it; the tasks then, with their
// own exit codes; and all begins again.
func hostShutDown(t *testing.T, c *cluster) {
	j, a, _ := ticking(t, c, "shutdown")
	check(t, c.nomadAgent.End(syscall.SIGINT))
	c.endTasks(t)
	list, err := c.daemon.Tasks(t.Context())
	if err != nil || len(list) != 1 || list[0].Exit == nil || list[0].Exit.Code != 9 || !list[0].Exit.Host {
		t.Errorf("the task ended as %+v %v", list, err)
	}
	c.stopDaemon(t, syscall.SIGTERM)
	check(t, c.nomadAgent.Start(t.Context()))
	c.startedAgain(t, j, a, "the host was shut down")
}

func (c *cluster) endTasks(t *testing.T) {
	t.Helper()
	r, err := c.daemon.Shutdown(t.Context(), client.ShutdownRequest{})
	if err != nil || len(r.Ended) != 1 || len(r.Killed)+len(r.Left) > 0 {
		t.Fatalf("the shutdown: %+v %v", r, err)
	}
}

// An agent that is still there does not start the tasks again on a host that goes
// down, and is told of their ends when a daemon is back. A job can be stopped at any
// time.
func hostShutDownBesideAgent(t *testing.T, c *cluster) {
	j, a, _ := ticking(t, c, "beside")
	c.endTasks(t)
	await(t, "the node to be unhealthy", func() error {
		n, err := c.nomadAgent.Node()
		if err == nil && n.Drivers["freejail"].Healthy {
			err = fmt.Errorf("it is healthy")
		}
		return err
	})
	info, _, err := c.nomad.Allocations().Info(a.ID, nil)
	check(t, err)
	if info.TaskStates["probe"].State != "running" {
		t.Errorf("the agent was told: %q", messages(info.TaskStates["probe"]))
	}
	c.stop(t, *j.ID) // it comes back from a task that has ended
	c.stopDaemon(t, syscall.SIGTERM)
	c.awaitHealth(t)
}

func (c *cluster) awaitHealth(t *testing.T) {
	t.Helper()
	await(t, "the driver to be healthy", func() error {
		n, err := c.nomadAgent.Node()
		if err == nil && !n.Drivers["freejail"].Healthy {
			err = fmt.Errorf("it is not: %s", n.Drivers["freejail"].HealthDescription)
		}
		return err
	})
}

// A power cut: nobody was asked, and what ran is of an earlier boot.
func hostRestarted(t *testing.T, c *cluster) {
	j, a, pid := ticking(t, c, "powercut")
	check(t, c.nomadAgent.End(syscall.SIGKILL))
	c.stopDaemon(t, syscall.SIGKILL)
	check(t, syscall.Kill(pid, syscall.SIGKILL))
	id, err := boot.ID()
	check(t, err)
	journals, err := filepath.Glob(filepath.Join(c.path("state"), "tasks", "*", "journal"))
	check(t, err)
	for _, f := range journals {
		b, err := os.ReadFile(f)
		check(t, err)
		check(t, os.WriteFile(f, []byte(strings.ReplaceAll(string(b), id, strings.Repeat("0", len(id)))), 0o600))
	}
	check(t, c.nomadAgent.Start(t.Context()))
	c.startedAgain(t, j, a, "the host was restarted")
	await(t, "the old task to be gone", func() error {
		list, err := c.daemon.Tasks(t.Context())
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("there are %d", len(list))
		}
		return err
	})
}
