// Package testcluster runs a Nomad agent, server and client in one, with freejail
// for its driver, for tests, demo and benchmarks.
package testcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/testagent"
)

// Nomad is an agent. It has its address before it is started, and keeps it.
type Nomad struct {
	*testagent.Agent // nil before it is started
	Addr, RPC        string
	Client           *api.Client

	cfg Config
}

// Config of an agent.
type Config struct {
	Name          string // of its node; empty is freejail
	Bin, Freejail string // programs
	Dir           string // for its configuration, data and plugins
	Log           string // the file of its output
	Plugin        string // the driver's configuration, in HCL
	Consul        string // host:port
	More          string // configuration, in HCL
	Args          []string
	Drivers       []string // which are waited for, beside freejail
	// Plugins are further ones, programs by their names; More configures them.
	Plugins map[string]string
	// Prepare is called with the command before it is run, where it is set.
	Prepare func(*exec.Cmd)
}

// Ended allocations stay on a disk that is rather full: their logs are read. No cloud is
// asked whether the host is one of its machines.
const config = `
name       = %q
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
telemetry {
  publish_allocation_metrics = true
}
client {
  enabled           = true
  network_interface = %q
  cpu_total_compute = 8000
  gc_disk_usage_threshold  = 99
  gc_inode_usage_threshold = 99
  options = { "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce" }
}
consul {
  address          = %q
  client_auto_join = false
  server_auto_join = false
}
plugin "freejail" {
  config {
    %s
  }
}
`

// NewNomad prepares an agent.
func NewNomad(cfg Config) (*Nomad, error) {
	ports, err := testagent.Addresses(3)
	if err != nil {
		return nil, err
	}
	cfg.Name = cmp.Or(cfg.Name, "freejail")
	n := &Nomad{Addr: ports[0].String(), RPC: ports[1].String(), cfg: cfg}
	loopback := "lo"
	if runtime.GOOS == "freebsd" {
		loopback = "lo0"
	}
	text := fmt.Sprintf(config, cfg.Name, n.path("nomad"), n.path("plugins"), ports[0].Port, ports[1].Port,
		ports[2].Port, loopback, cfg.Consul, cfg.Plugin)
	err = errors.Join(os.WriteFile(n.path("nomad.hcl"), []byte(text), 0o600),
		os.WriteFile(n.path("more.hcl"), []byte(cfg.More), 0o600),
		os.Mkdir(n.path("plugins"), 0o755), os.Symlink(cfg.Freejail, n.path("plugins/freejail")))
	for name, program := range cfg.Plugins {
		err = errors.Join(err, os.Symlink(program, n.path("plugins/"+name)))
	}
	if err != nil {
		return nil, err
	}
	n.Client, err = api.NewClient(&api.Config{Address: "http://" + n.Addr})
	return n, err
}

func (n *Nomad) path(name string) string { return filepath.Join(n.cfg.Dir, name) }

// Use has the next start run another program.
func (n *Nomad) Use(bin string) { n.cfg.Bin = bin }

// Start returns when the drivers are healthy on the agent's node.
func (n *Nomad) Start(ctx context.Context) (err error) {
	cmd := exec.Command(n.cfg.Bin, append(append([]string{"agent"}, n.cfg.Args...), "-config="+n.path("nomad.hcl"),
		"-config="+n.path("more.hcl"))...)
	if n.cfg.Prepare != nil {
		n.cfg.Prepare(cmd)
	}
	if n.Agent, err = testagent.Run(cmd, n.cfg.Log); err != nil {
		return err
	}
	return n.Up(ctx, "the drivers to be healthy on Nomad's node", func() error {
		node, err := n.Node()
		if err != nil {
			return err
		}
		for _, name := range append(n.cfg.Drivers, "freejail") {
			if d := node.Drivers[name]; node.Status != "ready" || d == nil || !d.Healthy {
				err = errors.Join(err, fmt.Errorf("node %s, driver %s %+v", node.Status, name, d))
			}
		}
		return err
	})
}

// Node is the agent's own.
func (n *Nomad) Node() (*api.Node, error) {
	list, _, err := n.Client.Nodes().List(nil)
	if err != nil {
		return nil, err
	}
	for _, node := range list {
		if node.Name == n.cfg.Name {
			node, _, err := n.Client.Nodes().Info(node.ID, nil)
			return node, err
		}
	}
	return nil, fmt.Errorf("%d nodes, and none is %s", len(list), n.cfg.Name)
}
