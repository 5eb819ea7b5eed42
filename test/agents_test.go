package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/testcluster"
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

// TestAgentOptions has what the plugin's block turns on.
func TestAgentOptions(t *testing.T) {
	before := lookAtHost(t)
	t.Run("cluster", func(t *testing.T) {
		c := startClusterOf(t, program(t, "NOMAD_BIN"), func(cfg *testcluster.Config) {
			cfg.Plugin += "\ndisable_log_collection = true\ndynamic_workload_users = true"
		})
		c.imports(t, "probe", probeImage)
		t.Run("logs", func(t *testing.T) { logsAreTheDaemons(t, c) })
		t.Run("users", func(t *testing.T) { usersAreNomads(t, c) })
	})
	before.same(t, lookAtHost(t))
}

// logsAreTheDaemons has no process of Nomad's beside a task, also after the agent was restarted.
func logsAreTheDaemons(t *testing.T, c *cluster) {
	j, _ := job("quiet", "tick")
	c.run(t, j)
	c.one(t, j, "running")
	pid := c.pid(t, "quiet")
	c.says(t, "quiet", "tick 3\n")
	check(t, c.nomadAgent.End(syscall.SIGINT))
	check(t, c.nomadAgent.Start(t.Context()))
	a := c.one(t, j, "running")
	c.says(t, "quiet", "tick 30\n")
	if now := c.pid(t, "quiet"); now != pid {
		t.Errorf("the task is process %d now, it was %d", now, pid)
	}
	all, err := allProcesses()
	check(t, err)
	for _, p := range all {
		if p.parent == c.nomadAgent.Pid && strings.Contains(p.args, "logmon") {
			t.Errorf("the agent collects logs: %s", p.args)
		}
	}
	if files, _, err := c.nomad.AllocFS().List(a, "alloc/logs", nil); err != nil || len(files) > 0 {
		t.Errorf("Nomad keeps %d logs: %v", len(files), err)
	}
}

// says waits for a line in the log that the daemon keeps of a job's task.
func (c *cluster) says(t *testing.T, job, want string) {
	t.Helper()
	await(t, fmt.Sprintf("%q in the daemon's log", want), func() error {
		list, err := c.daemon.Tasks(t.Context())
		for _, k := range list {
			if k.Spec.Labels["job"] != job {
				continue
			}
			var log bytes.Buffer
			if err := c.daemon.Logs(t.Context(), k.Spec.ID, "stdout", false, -1, &log); err != nil {
				return err
			}
			if strings.Contains(log.String(), want) {
				return nil
			}
			err = errors.Join(err, fmt.Errorf("it is %q", log.String()))
		}
		return errors.Join(err, errors.New("no task has it"))
	})
}

// usersAreNomads: tasks without a user have one that no other task has, as a number that agents
// before 1.8 do not give. A job that names a user has that.
func usersAreNomads(t *testing.T, c *cluster) {
	var jobs []*nomad.Job
	for name, user := range map[string]string{"own": "web", "one": "", "two": "", "named": "nomad-80500"} {
		j, task := job(name, "signals")
		task.User = user
		task.Config["ports"] = []string{}
		c.run(t, j)
		jobs = append(jobs, j)
	}
	got := map[string]string{}
	for _, j := range jobs {
		a := c.one(t, j, "running")
		code, out, stderr := c.exec(t, a, testimage.Program, "probe", "id")
		if code != 0 {
			t.Fatalf("exec: %d %s", code, stderr)
		}
		got[*j.ID] = strings.Join(strings.Fields(out)[:2], " ") // and perhaps its home
	}
	if got["own"] != "1080 1081" || got["named"] != "80500 80500" {
		t.Errorf("the users are %q", got)
	}
	if !c.givesUsers(t) {
		return
	}
	for _, name := range []string{"one", "two"} {
		if !nomadsUser.MatchString(got[name]) {
			t.Errorf("the user of %s is %q", name, got[name])
		}
	}
	if got["one"] == got["two"] {
		t.Errorf("two tasks have the user %q", got["one"])
	}
}

// nomadsUser is of the range that agents have by default.
var nomadsUser = regexp.MustCompile(`^8\d{4} 8\d{4}$`)

// givesUsers tells an agent that knows dynamic_workload_users.
func (c *cluster) givesUsers(t *testing.T) bool {
	t.Helper()
	self, err := c.nomad.Agent().Self()
	check(t, err)
	var major, minor int
	_, err = fmt.Sscanf(self.Member.Tags["build"], "%d.%d.", &major, &minor)
	check(t, err)
	return major > 1 || minor >= 8
}
