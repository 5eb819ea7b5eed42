package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// host is what a task could leave behind, each as a readable line.
type host struct {
	mounts, jails, interfaces, cgroups []string
}

func lookAtHost(t *testing.T) host {
	t.Helper()
	var h host
	list, err := mount.List()
	check(t, err)
	for _, m := range list {
		h.mounts = append(h.mounts, fmt.Sprintf("%s %s on %s", m.Type, m.Source, m.Target))
	}
	h.jails = jails(t)
	ifs, err := net.Interfaces()
	check(t, err)
	for _, i := range ifs {
		addrs, err := i.Addrs()
		check(t, err)
		h.interfaces = append(h.interfaces, fmt.Sprint(i.Name, addrs))
	}
	h.cgroups = cgroups(t)
	return h
}

// same fails the test for each line that is new or gone.
func (h host) same(t *testing.T, now host) {
	t.Helper()
	compare := func(what string, before, after []string) {
		for _, l := range after {
			if !slices.Contains(before, l) {
				t.Errorf("%s: left behind: %s", what, l)
			}
		}
		for _, l := range before {
			if !slices.Contains(after, l) {
				t.Errorf("%s: gone: %s", what, l)
			}
		}
	}
	compare("mounts", h.mounts, now.mounts)
	compare("jails", h.jails, now.jails)
	compare("interfaces", h.interfaces, now.interfaces)
	compare("cgroups", h.cgroups, now.cgroups)
}

// process is one of the host's.
type process struct {
	pid, parent int
	args        string
}

// processes are those that have a directory in their arguments.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	all, err := allProcesses()
	check(t, err)
	var out []string
	for _, p := range all {
		if strings.Contains(p.args, dir) {
			out = append(out, fmt.Sprint(p.pid, " ", p.args))
		}
	}
	return out
}

// idle compares what is of the daemon's after every task is gone.
func (c *cluster) idle(t *testing.T) {
	t.Helper()
	await(t, "no task, root, ruleset and service to be left", func() error {
		tasks, err := c.daemon.Tasks(t.Context())
		if err != nil {
			return err
		}
		var left []string
		for _, task := range tasks {
			left = append(left, "task "+task.Spec.ID+" "+string(task.State))
		}
		for _, sub := range []string{"tasks", "storage/roots"} {
			entries, err := os.ReadDir(filepath.Join(c.path("state"), sub))
			if err != nil && !os.IsNotExist(err) {
				return err
			}
			for _, e := range entries {
				left = append(left, sub+"/"+e.Name())
			}
		}
		mounts, err := mount.Below(c.path("state"))
		if err != nil {
			return err
		}
		for _, m := range mounts {
			left = append(left, "mount "+m.Target)
		}
		sets, err := c.daemon.Rulesets(t.Context())
		if err != nil {
			return err
		}
		for _, s := range sets {
			if len(s.Holders) > 0 {
				left = append(left, fmt.Sprint("ruleset ", s.ID, s.Holders))
			}
		}
		services, err := c.consul.Agent().Services()
		if err != nil {
			return err
		}
		for id := range services {
			if !strings.HasPrefix(id, "_nomad") {
				left = append(left, "service "+id)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
}
