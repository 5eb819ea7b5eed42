package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

// patience is how long anything is waited for before a test gives up.
const patience = 5 * time.Minute

// cluster is a Nomad agent, server and client in one, a Consul agent, and the
// daemon that the plugin starts, all in one directory.
type cluster struct {
	dir    string
	nomad  *nomad.Client
	consul *consul.Client
	daemon *client.Client

	nomadAgent, consulAgent *agent
	ports                   []int
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
  images = ["linux-permitted"]
  linux  = true
}
`

// startCluster is ready when Nomad finds the driver healthy and Consul answers.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	c := &cluster{dir: tempDir(t), ports: freePorts(t, 7)}
	plugins := filepath.Join(c.dir, "plugins")
	check(t, os.Mkdir(plugins, 0o755))
	check(t, os.Mkdir(c.path("t"), 0o700))
	check(t, os.Symlink(program(t, "FREEJAIL_BIN"), filepath.Join(plugins, "freejail")))
	c.write(t, "freejail.hcl", fmt.Sprintf("state_dir = %q\nsocket = %q\nconsul {\n  address = %q\n  advertise = \"127.0.0.1\"\n}\n%s",
		c.path("state"), c.path("sock"), c.addr(3), policy))
	c.write(t, "nomad.hcl", c.nomadConfig())
	var err error
	c.nomad, err = nomad.NewClient(&nomad.Config{Address: "http://" + c.addr(0)})
	check(t, err)
	c.consul, err = consul.NewClient(&consul.Config{Address: c.addr(3)})
	check(t, err)
	c.daemon = client.New(c.path("sock"))
	t.Cleanup(func() { c.stopAll(t) })
	c.startConsul(t)
	c.startNomad(t)
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) addr(i int) string { return fmt.Sprintf("127.0.0.1:%d", c.ports[i]) }

func (c *cluster) write(t *testing.T, name, text string) {
	t.Helper()
	check(t, os.WriteFile(c.path(name), []byte(text), 0o600))
}

func (c *cluster) nomadConfig() string {
	loopback := "lo"
	if runtime.GOOS == "freebsd" {
		loopback = "lo0"
	}
	return fmt.Sprintf(`
name       = "test"
data_dir   = %q
plugin_dir = %q
bind_addr  = "127.0.0.1"
log_level  = "INFO"
disable_update_check = true
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = %d
  rpc  = %d
  serf = %d
}
limits {
  http_max_conns_per_client = 0
}
server {
  enabled          = true
  bootstrap_expect = 1
  default_scheduler_config {
    memory_oversubscription_enabled = true
  }
}
client {
  enabled           = true
  network_interface = %q
  gc_interval       = "10m"
  cpu_total_compute = 8000
  options = { "driver.allowlist" = "freejail" }
}
consul {
  address          = %q
  client_auto_join = false
  server_auto_join = false
}
plugin "freejail" {
  config {
    socket   = %q
    config   = %q
    log_file = %q
  }
}
`, c.path("nomad"), c.path("plugins"), c.ports[0], c.ports[1], c.ports[2], loopback, c.addr(3), c.path("sock"), c.path("freejail.hcl"), c.path("daemon.log"))
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

// agent is a program that runs beside the tests.
type agent struct {
	*os.Process
	ended chan struct{}
}

// agent starts a program whose output goes to a file.
func (c *cluster) agent(t *testing.T, log, bin string, args ...string) *agent {
	t.Helper()
	out, err := os.OpenFile(c.path(log), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(t, err)
	defer out.Close()
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "TMPDIR="+c.path("t")) // where killed plugins leave their sockets
	check(t, cmd.Start())
	a := &agent{cmd.Process, make(chan struct{})}
	go func() {
		cmd.Wait() // its exit code says nothing here
		close(a.ended)
	}()
	return a
}

// up gives up at once where the agent has ended.
func (a *agent) up(t *testing.T, what string, ask func() error) {
	t.Helper()
	await(t, what, func() error {
		select {
		case <-a.ended:
			t.Fatalf("waited for %s, but the agent ended", what)
		default:
		}
		return ask()
	})
}

func (c *cluster) startConsul(t *testing.T) {
	t.Helper()
	c.consulAgent = c.agent(t, "consul.log", program(t, "CONSUL_BIN"), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=test", "-log-level=warn",
		fmt.Sprintf("-http-port=%d", c.ports[3]), fmt.Sprintf("-serf-lan-port=%d", c.ports[4]), fmt.Sprintf("-server-port=%d", c.ports[5]),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1")
	c.consulAgent.up(t, "Consul to answer", func() error {
		leader, err := c.consul.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

func (c *cluster) startNomad(t *testing.T) {
	t.Helper()
	c.nomadAgent = c.agent(t, "nomad.log", program(t, "NOMAD_BIN"), "agent", "-config="+c.path("nomad.hcl"))
	c.nomadAgent.up(t, "the driver to be healthy on Nomad's node", func() error {
		n, err := c.node()
		if err != nil {
			return err
		}
		if d := n.Drivers["freejail"]; n.Status != "ready" || d == nil || !d.Healthy {
			return fmt.Errorf("node %s, driver %+v", n.Status, d)
		}
		return nil
	})
}

func (c *cluster) node() (*nomad.Node, error) {
	list, _, err := c.nomad.Nodes().List(nil)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%d nodes", len(list))
	}
	n, _, err := c.nomad.Nodes().Info(list[0].ID, nil)
	return n, err
}

func (a *agent) end(t *testing.T, sig os.Signal) {
	t.Helper()
	if a == nil {
		return
	}
	if err := a.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	<-a.ended
}

// stopAll ends the daemon by its own means: nobody else is its parent.
func (c *cluster) stopAll(t *testing.T) {
	t.Helper()
	c.nomadAgent.end(t, syscall.SIGINT)
	c.stopDaemon(t, syscall.SIGTERM)
	c.consulAgent.end(t, syscall.SIGINT)
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

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
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
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
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
