package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcluster"
)

// cluster is a Consul agent, a Nomad agent, and the daemon that the plugin
// starts, with all that they keep in one directory.
type cluster struct {
	dir, imageDir  string
	bin            map[string]string
	consulAgent    *testagent.Consul
	nomadAgent     *testcluster.Nomad
	consul         *consul.Client
	nomad          *nomad.Client
	daemon         *client.Client
	jails          []string // that were seen
	before, during host
}

// newCluster writes the configurations: those of example/ with other paths and ports.
func newCluster(dir string) (*cluster, error) {
	c := &cluster{dir: dir, bin: map[string]string{}}
	for _, env := range []string{"FREEJAIL_BIN", "NOMAD_BIN", "CONSUL_BIN"} {
		c.bin[env] = os.Getenv(env)
		if c.bin[env] == "" {
			return nil, fmt.Errorf("%s is not set: run `make demo`", env)
		}
	}
	if err := os.Mkdir(c.path("logs"), 0o755); err != nil {
		return nil, err
	}
	var err error
	c.consulAgent, err = testagent.NewConsul(c.bin["CONSUL_BIN"], c.path("logs", "consul.log"),
		"-config-file="+filepath.Join("example", "consul", "agent.hcl"), `-hcl=data_dir = ""`)
	if err != nil {
		return nil, err
	}
	if err := c.writeHost(); err != nil {
		return nil, err
	}
	c.nomadAgent, err = testcluster.NewNomad(testcluster.Config{
		Bin: c.bin["NOMAD_BIN"], Freejail: c.bin["FREEJAIL_BIN"], Dir: c.dir, Log: c.path("logs", "nomad.log"),
		Consul: c.consulAgent.Addr,
		Plugin: fmt.Sprintf("socket = %q\nconfig = %q\nlog_file = %q", c.path("sock"), c.path("freejail.hcl"),
			c.path("logs", "freejail.log")),
		More: "client {\n  options = { \"driver.allowlist\" = \"freejail\" }\n}\n",
		Args: []string{"-dev", "-config=" + filepath.Join("example", "nomad", "server.hcl"),
			"-config=" + filepath.Join("example", "nomad", "client.hcl")},
		Prepare: ownGroup,
	})
	if err != nil {
		return nil, err
	}
	c.consulAgent.Prepare = ownGroup
	c.consul, c.nomad, c.daemon = c.consulAgent.Client, c.nomadAgent.Client, client.New(c.path("sock"))
	return c, nil
}

// ownGroup keeps an interrupt of the terminal from a program: the demo ends all in order.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func (c *cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// writeHost writes the sample of a host's configuration, with its policy.
func (c *cluster) writeHost() error {
	b, err := os.ReadFile(filepath.Join("example", "host", "freejail.hcl"))
	if err != nil {
		return fmt.Errorf("the demo runs in the repository's root: %w", err)
	}
	text := string(b)
	for old, new := range map[string]string{
		"/var/db/freejail": c.path("state"), "/var/run/freejail.sock": c.path("sock"),
		"127.0.0.1:8500": c.consulAgent.Addr,
	} {
		if !strings.Contains(text, `"`+old+`"`) {
			return fmt.Errorf("example/host/freejail.hcl does not name %q", old)
		}
		text = strings.ReplaceAll(text, `"`+old+`"`, `"`+new+`"`)
	}
	return os.WriteFile(c.path("freejail.hcl"), []byte(text), 0o600)
}

// end stops the agents and the daemon, which is not a child of this process.
func (c *cluster) end() error {
	err := c.nomadAgent.End(syscall.SIGINT)
	err = errors.Join(err, c.endDaemon(), c.consulAgent.End(syscall.SIGINT))
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
	return testagent.Await(ctx, "the daemon to end", func() error {
		gone, err := processGone(info.PID)
		if err == nil && !gone {
			err = fmt.Errorf("process %d is there", info.PID)
		}
		return err
	})
}

// abandon ends everything after a failure.
func (c *cluster) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), testagent.Patience)
	defer cancel()
	err := c.nomadAgent.End(syscall.SIGINT) // first, else it starts tasks again
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
