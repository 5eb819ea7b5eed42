// Package software runs the software of the examples, from the examples' own recipes, jobs and policies, by a real
// Nomad, a real Consul and a real daemon.
package software

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcluster"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await repeats a question until its answer is no error.
func await(t testing.TB, what string, ask func() error) {
	t.Helper()
	check(t, testagent.Await(context.Background(), what, ask))
}

// program finds what the makefile built.
func program(t *testing.T, env string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		t.Skipf("%s is not set; `make test` sets it", env)
	}
	return path
}

// example is a file of the examples, which the bundle has too.
func example(t *testing.T, name string) string {
	t.Helper()
	for _, up := range []string{"../..", "../../.."} {
		if p, err := filepath.Abs(filepath.Join(up, "example", name)); err == nil {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	t.Fatalf("example/%s is not here", name)
	return ""
}

// cluster is a Nomad agent, server and client in one, a Consul agent, and the daemon that the plugin starts, all in one
// directory, with the programs by which an operator uses them.
type cluster struct {
	t   *testing.T
	dir string
	env []string

	nomad  *testcluster.Nomad
	consul *testagent.Consul
	daemon *client.Client
}

const nomadConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  options = { "driver.allowlist" = "freejail" }
%s
}
`

// startCluster has a policy, and host volumes of Nomad by their names. It ends with the test.
func startCluster(t *testing.T, policy string, volumes map[string]string) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	c := &cluster{t: t, dir: tempDir(t)}
	c.daemon = client.New(c.path("sock"))
	c.env = append(os.Environ(), "TMPDIR="+c.path("t"))
	ownTemp := func(cmd *exec.Cmd) { cmd.Env = c.env } // where killed plugins leave their sockets
	check(t, os.Mkdir(c.path("t"), 0o700))
	var err error
	c.consul, err = testagent.NewConsul(program(t, "CONSUL_BIN"), c.path("consul.log"))
	check(t, err)
	c.consul.Prepare = ownTemp
	c.setPolicy(policy)
	var more strings.Builder
	for name, dir := range volumes {
		fmt.Fprintf(&more, "  host_volume %q {\n    path = %q\n  }\n", name, dir)
	}
	c.nomad, err = testcluster.NewNomad(testcluster.Config{Bin: program(t, "NOMAD_BIN"),
		Freejail: program(t, "FREEJAIL_BIN"), Dir: c.dir, Log: c.path("nomad.log"), Consul: c.consul.Addr,
		Plugin: fmt.Sprintf("socket = %q\nconfig = %q\nlog_file = %q", c.path("sock"), c.path("freejail.hcl"),
			c.path("daemon.log")), More: fmt.Sprintf(nomadConfig, more.String()), Prepare: ownTemp})
	check(t, err)
	c.env = append(c.env, "NOMAD_ADDR=http://"+c.nomad.Addr, "FREEJAIL_SOCKET="+c.path("sock"))
	t.Cleanup(c.end)
	check(t, c.consul.Start(t.Context()))
	check(t, c.nomad.Start(t.Context()))
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// setPolicy has the daemon decide by another policy from the next start on.
func (c *cluster) setPolicy(policy string) {
	c.t.Helper()
	text := fmt.Sprintf("state_dir = %q\nsocket = %q\nconsul {\n  address = %q\n  advertise = \"127.0.0.1\"\n}\n%s",
		c.path("state"), c.path("sock"), c.consul.Addr, policy)
	check(c.t, os.WriteFile(c.path("freejail.hcl"), []byte(text), 0o600))
}

// tempDir is short enough for unix sockets; what Nomad's agent leaves mounted there for its next run is unmounted.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fj")
	check(t, err)
	t.Cleanup(func() {
		if err := errors.Join(mount.UnmountUnder(filepath.Join(dir, "nomad")), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// end stops the agents, and the daemon by its own means: nobody else is its parent.
func (c *cluster) end() {
	err := c.nomad.End(syscall.SIGINT)
	info, ierr := c.daemon.Info(context.Background())
	if ierr == nil {
		ierr = syscall.Kill(info.PID, syscall.SIGTERM)
		await(c.t, "the daemon to end", func() error {
			if _, err := c.daemon.Info(context.Background()); !errors.Is(err, client.ErrNoDaemon) {
				return fmt.Errorf("it answers: %w", err)
			}
			return nil
		})
	} else if errors.Is(ierr, client.ErrNoDaemon) {
		ierr = nil
	}
	if err = errors.Join(err, ierr, c.consul.End(syscall.SIGINT)); err != nil {
		c.t.Error(err)
	}
	for _, log := range []string{"daemon.log", "nomad.log"} {
		if b, err := os.ReadFile(c.path(log)); err == nil && c.t.Failed() {
			c.t.Logf("the end of %s:\n%s", log, b[max(0, len(b)-8000):])
		}
	}
}

// try runs a program of the cluster as an operator does: nomad, freejail or freejail-build.
func (c *cluster) try(args ...string) (string, error) {
	c.t.Helper()
	name := map[string]string{"nomad": "NOMAD_BIN", "freejail": "FREEJAIL_BIN", "freejail-build": "FREEJAIL_BUILD_BIN"}
	ctx, cancel := context.WithTimeout(c.t.Context(), testagent.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(c.t, name[args[0]]), args[1:]...)
	cmd.Env = c.env
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%q: %w: %s%s", args, err, out.String(), messages.String())
	}
	return out.String(), nil
}

// run is try for what has to succeed.
func (c *cluster) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	check(c.t, err)
	return out
}

// job runs one, with flags of `nomad job run`, and purges it at the test's end.
func (c *cluster) job(name string, args ...string) string {
	c.t.Helper()
	c.t.Cleanup(func() { check(c.t, c.nomad.PurgeJob(context.Background(), name)) })
	return c.run(append([]string{"nomad", "job", "run"}, args...)...)
}

// allocs are the allocations of a job that have a status, of its version that is newest.
func (c *cluster) allocs(job, status string) (found []*nomad.Allocation, err error) {
	current, _, err := c.nomad.Client.Jobs().Info(job, nil)
	if err != nil {
		return nil, err
	}
	list, _, err := c.nomad.Client.Jobs().Allocations(job, true, nil)
	for _, a := range list {
		if a.ClientStatus != status || a.JobVersion != *current.Version {
			continue
		}
		full, _, ierr := c.nomad.Client.Allocations().Info(a.ID, nil)
		found, err = append(found, full), errors.Join(err, ierr)
	}
	return found, err
}

// awaitAllocs waits for n of them, and names what Nomad shows of others.
func (c *cluster) awaitAllocs(job, status string, n int) (found []*nomad.Allocation) {
	c.t.Helper()
	await(c.t, fmt.Sprintf("%d allocations of %s to be %s", n, job, status), func() (err error) {
		if found, err = c.allocs(job, status); err == nil && len(found) != n {
			err = fmt.Errorf("%d are; %s", len(found), c.seen(job))
		}
		return err
	})
	return found
}

// seen is what the owner of a job sees of its tasks.
func (c *cluster) seen(job string) string {
	list, _, err := c.nomad.Client.Jobs().Allocations(job, true, nil)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, a := range list {
		for name, s := range a.TaskStates {
			for _, e := range s.Events {
				out = append(out, fmt.Sprintf("%s %s %s: %s: %s", a.ID[:8], a.ClientStatus, name, e.Type, e.DisplayMessage))
			}
		}
	}
	return strings.Join(out, "\n")
}

// passing are the instances of a service whose checks pass.
func (c *cluster) passing(service, tag string) (at []string, err error) {
	found, _, err := c.consul.Client.Health().Service(service, tag, true, &consul.QueryOptions{RequireConsistent: true})
	for _, s := range found {
		at = append(at, net.JoinHostPort(s.Service.Address, strconv.Itoa(s.Service.Port)))
	}
	return at, err
}

// awaitPassing waits until n instances of a service pass their checks.
func (c *cluster) awaitPassing(service, tag string, n int) (at []string) {
	c.t.Helper()
	await(c.t, fmt.Sprintf("%d of %s to pass their checks", n, service), func() (err error) {
		if at, err = c.passing(service, tag); err == nil && len(at) != n {
			err = fmt.Errorf("there are %q; %s", at, c.seen(service))
		}
		return err
	})
	return at
}
