package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcluster"
	"github.com/freejail/freejail/internal/testimage"
)

// cluster is a Nomad agent, server and client in one, a Consul agent, and the
// daemon that the plugin starts, all in one directory.
type cluster struct {
	dir    string
	nomad  *nomad.Client
	consul *consul.Client
	daemon *client.Client

	nomadAgent  *testcluster.Nomad
	consulAgent *testagent.Consul
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

const policy = `
permit {
  ports    = ["1024-65535/tcp"]
  services = ["probe:test"]
}
permit {
  images   = ["linux-permitted"]
  linux    = true
  services = ["web:example"]
}
`

// startCluster is ready when Nomad finds the driver healthy and Consul answers.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	return startClusterOf(t, program(t, "NOMAD_BIN"))
}

// startClusterOf has the agent of a program, with what a test has in its configuration besides.
func startClusterOf(t *testing.T, bin string, besides ...func(*testcluster.Config)) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	c := newCluster(t)
	c.write(t, "freejail.hcl", c.host()+policy)
	var err error
	cfg := testcluster.Config{
		Bin: bin, Freejail: program(t, "FREEJAIL_BIN"), Dir: c.dir, Log: c.path("nomad.log"),
		Consul: c.consulAgent.Addr,
		Plugin: fmt.Sprintf("socket = %q\nconfig = %q\nlog_file = %q", c.path("sock"), c.path("freejail.hcl"),
			c.path("daemon.log")),
		More:    nomadConfig,
		Prepare: c.ownTemp,
	}
	for _, f := range besides {
		f(&cfg)
	}
	c.nomadAgent, err = testcluster.NewNomad(cfg)
	check(t, err)
	c.nomad = c.nomadAgent.Client
	check(t, c.consulAgent.Start(t.Context()))
	check(t, c.nomadAgent.Start(t.Context()))
	return c
}

const nomadConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
  default_scheduler_config {
    memory_oversubscription_enabled = true
  }
}
client {
  gc_interval = "10m"
  options     = { "driver.allowlist" = "freejail" }
}
`

// newCluster is a directory and a Consul that is not started yet, and has all end
// with the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{dir: tempDir(t)}
	c.daemon = client.New(c.path("sock"))
	check(t, os.Mkdir(c.path("t"), 0o700))
	var err error
	c.consulAgent, err = testagent.NewConsul(program(t, "CONSUL_BIN"), c.path("consul.log"))
	check(t, err)
	c.consulAgent.Prepare = c.ownTemp
	c.consul = c.consulAgent.Client
	t.Cleanup(func() { c.stopAll(t) })
	return c
}

// host is the beginning of the host's configuration.
func (c *cluster) host() string {
	return fmt.Sprintf("state_dir = %q\nsocket = %q\nconsul {\n  address = %q\n  advertise = \"127.0.0.1\"\n}\n",
		c.path("state"), c.path("sock"), c.consulAgent.Addr)
}

// ownTemp is where killed plugins leave their sockets.
func (c *cluster) ownTemp(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "TMPDIR="+c.path("t")) }

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(t *testing.T, name, text string) {
	t.Helper()
	check(t, os.WriteFile(c.path(name), []byte(text), 0o600))
}

// configurable lets a test add to the host's configuration, until it ends.
func (c *cluster) configurable(t *testing.T) (with func(more string)) {
	t.Helper()
	before, err := os.ReadFile(c.path("freejail.hcl"))
	check(t, err)
	t.Cleanup(func() { c.write(t, "freejail.hcl", string(before)) })
	return func(more string) { c.write(t, "freejail.hcl", string(before)+more) }
}

// imports takes an image of the probe into the daemon's store.
func (c *cluster) imports(t *testing.T, name string, spec testimage.Spec) {
	t.Helper()
	spec.Name = "probe"
	path, err := testimage.Write(t.Context(), t.TempDir(), spec)
	check(t, err)
	_, err = c.daemon.Import(t.Context(), client.ImportRequest{Name: name, Path: path}, nil)
	check(t, err)
}

// stopAll ends the daemon by its own means: nobody else is its parent.
func (c *cluster) stopAll(t *testing.T) {
	t.Helper()
	var err error
	if c.nomadAgent != nil {
		err = c.nomadAgent.End(syscall.SIGINT)
	}
	c.stopDaemon(t, syscall.SIGTERM)
	if err = errors.Join(err, c.consulAgent.End(syscall.SIGINT)); err != nil {
		t.Error(err)
	}
	for _, log := range []string{"daemon.log", "nomad.log"} { // of programs built with -race
		if b, err := os.ReadFile(c.path(log)); err == nil && bytes.Contains(b, []byte("WARNING: DATA RACE")) {
			t.Errorf("%s has a data race", log)
		}
	}
	if t.Failed() {
		for _, log := range []string{"daemon.log", "nomad.log"} {
			t.Logf("the end of %s:\n%s", log, tail(c.path(log), 12000))
		}
	}
}

func (c *cluster) stopDaemon(t *testing.T, sig syscall.Signal) {
	t.Helper()
	info, err := c.daemon.Info(context.Background())
	if errors.Is(err, client.ErrNoDaemon) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	if err := syscall.Kill(info.PID, sig); err != nil {
		t.Error(err)
	}
	await(t, "the daemon to end", func() error {
		if err := syscall.Kill(info.PID, 0); !errors.Is(err, syscall.ESRCH) && !zombie(info.PID) {
			return fmt.Errorf("process %d is there: %v", info.PID, err)
		}
		return nil
	})
}

// zombie tells an ended process whose parent has not looked yet. On Linux a
// container without an init keeps such orphans.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && strings.HasPrefix(rest, "Z")
}

func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// tempDir is short enough for unix sockets. Mounts below it would be a leak;
// Nomad's own are unmounted, since the agent that ended left them to its next run.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fj")
	check(t, err)
	t.Cleanup(func() {
		if err := mount.UnmountUnder(filepath.Join(dir, "nomad")); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

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

func httpGet(url string) (string, error) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return b.String(), err
}
