package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// cluster is a Consul agent, a Nomad agent, and the daemon that the plugin
// starts, with all that they keep in one directory.
type cluster struct {
	dir, imageDir         string
	bin                   map[string]string
	consulAddr, nomadAddr string
	consulAgent           *agent
	nomadAgent            *agent
	consul                *consul.Client
	nomad                 *nomad.Client
	daemon                *client.Client
	jails                 []string // that were seen
	before, during        host
}

// newCluster writes the configurations: those of example/ with other places.
func newCluster(dir string) (*cluster, error) {
	c := &cluster{dir: dir, bin: map[string]string{}}
	for _, env := range []string{"FREEJAIL_BIN", "NOMAD_BIN", "CONSUL_BIN"} {
		c.bin[env] = os.Getenv(env)
		if c.bin[env] == "" {
			return nil, fmt.Errorf("%s is not set: run `make demo`", env)
		}
	}
	for _, d := range []string{"logs", "plugins"} {
		if err := os.Mkdir(c.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(c.bin["FREEJAIL_BIN"], c.path("plugins", "freejail")); err != nil {
		return nil, err
	}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	c.consulAddr, c.nomadAddr = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[3])
	if err := errors.Join(c.writeHost(), c.writeConsul(ports[:3]), c.writeNomad(ports[3:])); err != nil {
		return nil, err
	}
	var err1, err2 error
	c.consul, err1 = consul.NewClient(&consul.Config{Address: c.consulAddr})
	c.nomad, err2 = nomad.NewClient(&nomad.Config{Address: "http://" + c.nomadAddr})
	c.daemon = client.New(c.path("sock"))
	return c, errors.Join(err1, err2)
}

func (c *cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// writeHost takes the sample of a host's configuration, policy and all.
func (c *cluster) writeHost() error {
	b, err := os.ReadFile(filepath.Join("example", "host", "freejail.hcl"))
	if err != nil {
		return fmt.Errorf("the demo runs in the repository's root: %w", err)
	}
	text := string(b)
	for old, new := range map[string]string{
		"/var/db/freejail": c.path("state"), "/var/run/freejail.sock": c.path("sock"), "127.0.0.1:8500": c.consulAddr,
	} {
		if !strings.Contains(text, `"`+old+`"`) {
			return fmt.Errorf("example/host/freejail.hcl does not name %q", old)
		}
		text = strings.ReplaceAll(text, `"`+old+`"`, `"`+new+`"`)
	}
	return os.WriteFile(c.path("freejail.hcl"), []byte(text), 0o600)
}

func (c *cluster) writeConsul(ports []int) error {
	text := fmt.Sprintf(`
data_dir  = ""
node_name = "demo"
log_level = "warn"
ports {
  http     = %d
  server   = %d
  serf_lan = %d
  serf_wan = -1
  dns      = -1
  grpc     = -1
  grpc_tls = -1
}
`, ports[0], ports[1], ports[2])
	return os.WriteFile(c.path("consul.hcl"), []byte(text), 0o600)
}

func (c *cluster) writeNomad(ports []int) error {
	loopback := "lo"
	if runtime.GOOS == "freebsd" {
		loopback = "lo0"
	}
	text := fmt.Sprintf(`
name       = "demo"
data_dir   = %q
plugin_dir = %q
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
client {
  network_interface = %q
  cpu_total_compute = 8000
  options = { "driver.allowlist" = "freejail" }
}
consul {
  address = %q
}
plugin "freejail" {
  config {
    socket   = %q
    config   = %q
    log_file = %q
  }
}
`, c.path("nomad"), c.path("plugins"), ports[0], ports[1], ports[2], loopback, c.consulAddr, c.path("sock"), c.path("freejail.hcl"), c.path("logs", "freejail.log"))
	return os.WriteFile(c.path("nomad.hcl"), []byte(text), 0o600)
}

// agent is a program that runs beside the demo.
type agent struct {
	*os.Process
	name  string
	ended chan struct{}
}

// agent starts a program whose output goes to a file. It has a process group of
// its own: an interrupt at the terminal is the demo's, which ends it in order.
func (c *cluster) agent(name, bin string, args ...string) (*agent, error) {
	out, err := os.Create(c.path("logs", name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	a := &agent{cmd.Process, name, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its exit code says nothing here
		close(a.ended)
	}()
	return a, nil
}

// up waits for an answer and gives up at once where the agent has ended.
func (a *agent) up(ctx context.Context, what string, ask func() error) error {
	return await(ctx, what, func() error {
		select {
		case <-a.ended:
			return final{fmt.Errorf("%s has ended", a.name)}
		default:
		}
		return ask()
	})
}

func (a *agent) end() error {
	if a == nil {
		return nil
	}
	if err := a.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-a.ended:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s did not end by itself", a.name), a.Kill())
	}
}

func (c *cluster) startConsul(ctx context.Context) (err error) {
	c.consulAgent, err = c.agent("consul", c.bin["CONSUL_BIN"], "agent", "-dev", "-config-file="+filepath.Join("example", "consul", "agent.hcl"), "-config-file="+c.path("consul.hcl"))
	if err != nil {
		return err
	}
	return c.consulAgent.up(ctx, "Consul to answer", func() error {
		leader, err := c.consul.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

func (c *cluster) startNomad(ctx context.Context) (err error) {
	c.nomadAgent, err = c.agent("nomad", c.bin["NOMAD_BIN"], "agent", "-dev", "-config="+filepath.Join("example", "nomad", "server.hcl"),
		"-config="+filepath.Join("example", "nomad", "client.hcl"), "-config="+c.path("nomad.hcl"))
	if err != nil {
		return err
	}
	return c.nomadAgent.up(ctx, "the driver to be healthy on Nomad's node", func() error {
		list, _, err := c.nomad.Nodes().List(nil)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("%d nodes", len(list))
		}
		d := list[0].Drivers["freejail"]
		if list[0].Status != "ready" || d == nil || !d.Healthy {
			return fmt.Errorf("node %s, driver %+v", list[0].Status, d)
		}
		return nil
	})
}

// end stops the agents and the daemon, whose parent nobody here is.
func (c *cluster) end() error {
	err := c.nomadAgent.end()
	err = errors.Join(err, c.endDaemon(), c.consulAgent.end())
	// A Nomad agent leaves its own mounts to its next run.
	return errors.Join(err, mount.UnmountUnder(c.path("nomad")))
}

func (c *cluster) endDaemon() error {
	ctx := context.Background()
	info, err := c.daemon.Info(ctx)
	if errors.Is(err, client.ErrNoDaemon) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syscall.Kill(info.PID, syscall.SIGTERM); err != nil {
		return err
	}
	return await(ctx, "the daemon to end", func() error {
		gone, err := processGone(info.PID)
		if err == nil && !gone {
			err = fmt.Errorf("process %d is there", info.PID)
		}
		return err
	})
}

// abandon ends everything after a failure.
func (c *cluster) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := c.nomadAgent.end() // first, else it starts tasks again
	tasks, terr := c.daemon.Tasks(ctx)
	if errors.Is(terr, client.ErrNoDaemon) {
		terr = nil
	}
	for _, t := range tasks {
		terr = errors.Join(terr, c.daemon.Destroy(ctx, t.Spec.ID, true))
	}
	err = errors.Join(err, terr, c.end())
	if err == nil { // else what is still mounted would be removed too
		for _, d := range []string{"nomad", "state", "images", "plugins"} {
			err = errors.Join(err, os.RemoveAll(c.path(d)))
		}
	}
	if err != nil {
		say("   cleaning up: %v", err)
	}
}

// freejail runs the command line and shows it with its output.
func (c *cluster) freejail(ctx context.Context, args ...string) error {
	say("   $ freejail %s", quoted(args))
	return c.command(ctx, c.bin["FREEJAIL_BIN"], append([]string{"--socket", c.path("sock")}, args...)...)
}

// command shows the output of a program.
func (c *cluster) command(ctx context.Context, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, args...)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	err := cmd.Run()
	indent(out.String() + errout.String())
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(bin), quoted(args), err)
	}
	return nil
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// patience is how long anything is waited for.
const patience = 2 * time.Minute

// final is an error that waiting cannot mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// await repeats a question until its answer is no error.
func await(ctx context.Context, what string, ask func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		var f final
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case errors.As(err, &f) || time.Now().After(deadline):
			return fmt.Errorf("waited for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
