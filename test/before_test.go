package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testimage"
)

// What the version before had running, had ended, had approved and had imported is
// this version's, be the daemon killed or upgraded.
func TestTasksOfTheVersionBefore(t *testing.T) {
	for name, next := range map[string]func(*testing.T, *cluster){
		"killed": func(t *testing.T, c *cluster) {
			c.stopDaemon(t, syscall.SIGKILL)
			c.startDaemon(t, program(t, "FREEJAIL_BIN"))
		},
		"upgraded": func(t *testing.T, c *cluster) {
			_, err := c.daemon.Upgrade(t.Context(), client.UpgradeRequest{Binary: program(t, "FREEJAIL_BIN")})
			check(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := lookAtHost(t)
			t.Run("host", func(t *testing.T) {
				c := startBefore(t)
				tasks := c.leaveTasks(t)
				_, err := c.daemon.Approve(t.Context(),
					client.ApproveRequest{Image: "probe", Requests: []string{"allow:mlock"}, Why: "of before"})
				check(t, err)
				next(t, c)
				c.takenOver(t, tasks, name == "upgraded" || runtime.GOOS == "freebsd")
			})
			before.same(t, lookAtHost(t))
		})
	}
}

// A start that the version before was killed in is taken back, whichever its step.
func TestStartsOfTheVersionBefore(t *testing.T) {
	for _, point := range []string{"ruleset:done", "root:journalled", "root:done", "mounts:done", "jail:done",
		"process:done", "service:done"} {
		t.Run(point, func(t *testing.T) {
			before := lookAtHost(t)
			t.Run("host", func(t *testing.T) {
				program(t, "FREEJAIL_BEFORE_BIN")
				t.Setenv("FREEJAIL_FAULT_POINT", point)
				c := startBefore(t)
				if _, err := c.daemon.Start(t.Context(), c.spec(t, "half", "serve")); err == nil {
					t.Fatal("the daemon was not killed")
				}
				t.Setenv("FREEJAIL_FAULT_POINT", "")
				c.startDaemon(t, program(t, "FREEJAIL_BIN"))
				check(t, c.daemon.Destroy(t.Context(), "half", true))
				c.idle(t)
				_, err := c.daemon.Start(t.Context(), c.spec(t, "half", "exit", "0"))
				check(t, err)
				c.ends(t, "half", 0)
				c.idle(t)
			})
			before.same(t, lookAtHost(t))
		})
	}
}

// startBefore is a host with Consul and a daemon of the version before.
func startBefore(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	old := program(t, "FREEJAIL_BEFORE_BIN")
	c := newCluster(t)
	check(t, os.Mkdir(c.path("volume"), 0o755))
	check(t, os.WriteFile(c.path("volume/file"), []byte("of the host"), 0o644))
	c.write(t, "freejail.hcl", fmt.Sprintf("%spermit {\n  mounts = [%q]\n}\n%s", c.host(),
		"nullfs:"+c.path("volume")+":ro", policy))
	check(t, c.consulAgent.Start(t.Context()))
	c.startDaemon(t, old)
	c.imports(t, "probe", testimage.Spec{Manifest: manifest})
	return c
}

func (c *cluster) startDaemon(t *testing.T, bin string) {
	t.Helper()
	cmd := exec.Command(bin, "daemon", "--config", c.path("freejail.hcl"))
	c.ownTemp(cmd)
	a, err := testagent.Run(cmd, c.path("daemon.log"))
	check(t, err)
	check(t, a.Up(t.Context(), "the daemon to answer", func() error {
		info, err := c.daemon.Info(t.Context())
		if err == nil && info.Recovering != "" {
			err = errors.New(info.Recovering)
		}
		return err
	}))
}

// spec is a task with something of each step: a port in Consul, a volume, limits.
func (c *cluster) spec(t *testing.T, id string, args ...string) client.TaskSpec {
	t.Helper()
	port, err := testagent.Addresses(1)
	check(t, err)
	return client.TaskSpec{ID: id, Owner: "cli", Image: "probe", Args: append([]string{"probe"}, args...),
		Parameters: map[string]string{"GREETING": "hello"},
		Ports:      map[string]client.PortBinding{"http": {Address: "127.0.0.1", Port: port[0].Port}},
		Volumes:    []client.Mount{{Source: c.path("volume"), Target: "/tmp", ReadOnly: true}},
		Limits: client.Limits{MemoryBytes: 256 << 20,
			MaxProcs: 100}, StopTimeout: client.Duration(20 * time.Second)}
}

// leaveTasks starts what the next daemon finds: one that serves, one that writes its
// log, and one that has ended.
func (c *cluster) leaveTasks(t *testing.T) map[string]*client.Task {
	t.Helper()
	out := map[string]*client.Task{}
	for id, args := range map[string][]string{"serving": {"serve"}, "ticking": {"tick"}, "over": {"exit", "7"}} {
		task, err := c.daemon.Start(t.Context(), c.spec(t, id, args...))
		check(t, err)
		out[id] = task
	}
	if exit, err := c.daemon.Wait(t.Context(), "over"); err != nil || exit.Code != 7 {
		t.Fatalf("it ended with %+v: %v", exit, err)
	}
	c.answers(t, out["serving"])
	return out
}

func (c *cluster) answers(t *testing.T, task *client.Task) {
	t.Helper()
	await(t, "the page", func() error {
		page, err := httpGet(fmt.Sprintf("http://127.0.0.1:%d/", task.Spec.Ports["http"].Port))
		if err == nil && !strings.Contains(page, "hello") {
			err = errors.New(page)
		}
		return err
	})
	await(t, "Consul to find it healthy", func() error {
		list, _, err := c.consul.Health().Service("probe", "test", true, nil)
		if err == nil && !slices.ContainsFunc(list,
			func(e *consul.ServiceEntry) bool { return e.Service.Port == task.Spec.Ports["http"].Port }) {
			err = fmt.Errorf("it has %d", len(list))
		}
		return err
	})
}

// takenOver uses each thing that the daemon before had made. On Linux the exit code of
// a process is its parent's alone to know: exits tells whether there is one.
func (c *cluster) takenOver(t *testing.T, tasks map[string]*client.Task, exits bool) {
	t.Helper()
	for id, was := range tasks {
		now, err := c.daemon.Task(t.Context(), id)
		check(t, err)
		if id != "over" && (now.PID != was.PID || now.State != client.Running || now.Jail != was.Jail ||
			now.Root != was.Root) {
			t.Errorf("%s was %+v and is %+v", id, was, now)
		}
	}
	c.answers(t, tasks["serving"])
	var out, log bytes.Buffer
	exit, err := c.daemon.Exec(t.Context(), "serving",
		client.ExecSpec{Args: []string{testimage.Program, "probe", "cat", "/tmp/file"}},
		client.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || exit.Code != 0 || out.String() != "of the host" {
		t.Errorf("exec: %+v %v: %s", exit, err, &out)
	}
	check(t, c.daemon.Logs(t.Context(), "ticking", "stdout", false, -1, &log))
	if !strings.HasPrefix(log.String(), "tick 1\n") {
		t.Errorf("the log begins with %.40q", log.String())
	}
	list, err := c.daemon.Approvals(t.Context())
	if err != nil || len(list) != 1 || list[0].Why != "of before" {
		t.Errorf("the approvals are %+v: %v", list, err)
	}
	if _, err := c.daemon.Image(t.Context(), "probe"); err != nil {
		t.Error(err)
	}
	c.ends(t, "over", 7)
	for id, code := range map[string]int{"serving": 0, "ticking": 9} {
		if _, err := c.daemon.Stop(t.Context(), id,
			client.StopRequest{Timeout: client.Duration(time.Minute)}); err != nil {
			t.Error(err)
		}
		if !exits {
			code = 0
		}
		c.endsAs(t, id, client.Exit{Known: exits, Code: code})
	}
	c.idle(t)
	if left, err := filepath.Glob(c.path("state/tasks/*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q %v", left, err)
	}
}

// ends waits for a task's own exit code, and forgets it.
func (c *cluster) ends(t *testing.T, id string, code int) {
	t.Helper()
	c.endsAs(t, id, client.Exit{Known: true, Code: code})
}

func (c *cluster) endsAs(t *testing.T, id string, want client.Exit) {
	t.Helper()
	exit, err := c.daemon.Wait(t.Context(), id)
	if err != nil || exit.Known != want.Known || exit.Code != want.Code {
		t.Errorf("%s ended with %+v, want %+v: %v", id, exit, want, err)
	}
	check(t, c.daemon.Destroy(t.Context(), id, false))
}
