package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"

	nomad "github.com/hashicorp/nomad/api"
)

// coresOfOthers: a task without cores leaves those that are reserved for another, and comes back.
func coresOfOthers(t *testing.T, c *cluster) {
	if runtime.NumCPU() < 2 {
		t.Skip("the host has one processor")
	}
	n, err := c.nomadAgent.Node()
	check(t, err)
	if n.NodeResources.Cpu.ReservableCpuCores == nil {
		t.Skip("this agent reserves no cores: it found no cgroups with cpuset")
	}
	j, a := anyCore(t, c, "before")
	pid := c.pid(t, a.JobID)
	all := allowed(t, pid)
	own, task := job("cores", "signals")
	task.Config["ports"] = []string{}
	task.Resources.CPU, task.Resources.Cores = nil, ptr(1)
	c.run(t, own)
	c.one(t, own, "running")
	reserved := allowed(t, c.pid(t, "cores"))
	later, b := anyCore(t, c, "later")
	await(t, "the others to leave the core "+reserved, func() error {
		for _, pid := range []int{pid, c.pid(t, b.JobID)} {
			if now := allowed(t, pid); now == all || now == reserved || now == "" {
				return fmt.Errorf("%d runs on %s", pid, now)
			}
		}
		return nil
	})
	c.stop(t, *own.ID)
	await(t, "the core to be given back", func() error {
		if now := allowed(t, pid); now != all {
			return fmt.Errorf("it runs on %s, before on %s", now, all)
		}
		return nil
	})
	c.stop(t, *later.ID)
	c.stop(t, *j.ID)
}

// anyCore is a task that reserves none.
func anyCore(t *testing.T, c *cluster, id string) (*nomad.Job, *nomad.Allocation) {
	t.Helper()
	j, task := job(id, "signals")
	task.Config["ports"] = []string{}
	c.run(t, j)
	return j, c.one(t, j, "running")
}

var cpusAllowed = regexp.MustCompile(`(?m)^Cpus_allowed_list:\s*(\S+)$`)

// allowed are the processors of a process.
func allowed(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	check(t, err)
	m := cpusAllowed.FindSubmatch(text)
	if m == nil {
		t.Fatalf("process %d: %s", pid, text)
	}
	return string(m[1])
}
