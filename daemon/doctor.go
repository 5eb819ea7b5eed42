package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/printable"
)

// Doctor examines the daemon and its host.
func (d *Daemon) Doctor(ctx context.Context) []client.Check {
	var c host.Checks
	i := d.Info()
	c.OK("daemon", fmt.Sprintf("version %s, process %d, %s, socket %s", i.Version, i.PID,
		printable.Count(i.Tasks, "task"), d.cfg.Socket))
	switch {
	case i.Healthy:
		c.OK("storage", "driver "+i.Storage)
	case i.ShutDown:
		c.Bad("shutdown", i.Reason, task.StartAgain)
	default:
		c.Bad("storage", i.Reason,
			"free space in the state directory, or choose storage { driver } in the host configuration")
	}
	doubt, broken := host.Check(d.cfg.Path)
	switch {
	case d.cfg.Path == "":
		c.Warn("policy", "no host configuration: every request is refused", "start the daemon with --config FILE")
	case i.PolicyError != "":
		c.Bad("policy", i.PolicyError, "fix "+d.cfg.Path+", then: freejail policy reload")
	case broken != nil: // by what it names, and so not read anew
		c.Bad("policy", fmt.Sprintf("the daemon would not start with its configuration: %v", broken), "fix "+d.cfg.Path)
	case doubt != nil:
		c.Warn("policy", doubt.Error(), "fix "+d.cfg.Path+", then: freejail policy reload")
	default:
		c.OK("policy", d.cfg.Path)
	}
	d.checkWaiting(&c)
	d.checkDamages(&c)
	d.checkStrays(ctx, &c)
	d.checkLeft(&c)
	d.checkConsul(ctx, &c)
	d.checkNFS(ctx, &c)
	d.checkNetworks(&c)
	d.checkMetrics(&c)
	d.checkApprovers(&c)
	return append(c, host.Examine(d.cfg, d.networkStates())...)
}

// networkStates are the networks that have a block, or had one that tasks still have.
func (d *Daemon) networkStates() (list []host.NetworkState) {
	by := d.tasksByNetwork()
	for _, s := range d.networks.List() {
		list = append(list, host.NetworkState{Status: s, Tasks: by[s.Name]})
	}
	return list
}

// checkWaiting tells of what the file has in another way by now, but networks.
func (d *Daemon) checkWaiting(c *host.Checks) {
	now, err := host.LoadConfig(d.cfg.Path)
	if err != nil {
		return // told by the check of the policy
	}
	const text = " was changed, and the daemon does not know of it yet: "
	w := host.WaitingIn(d.cfg, now)
	if len(w.Upgrade) > 0 {
		c.Warn("configuration", d.cfg.Path+text+strings.Join(w.Upgrade, ", "), client.UpgradeCommand)
	}
	if len(w.Restart) > 0 {
		c.Warn("configuration", d.cfg.Path+text+strings.Join(w.Restart, ", "),
			"stop the daemon and start it; for another state_dir end the tasks first")
	}
}

// checkNetworks tells of networks that the file has in another way by now.
func (d *Daemon) checkNetworks(c *host.Checks) {
	now, err := host.LoadConfig(d.cfg.Path)
	if err != nil || d.cfg.Path == "" {
		return // told by the check of the policy
	}
	if names := host.WaitingIn(d.cfg, now).Networks; len(names) > 0 {
		c.Warn("networks", d.cfg.Path+" was changed, and the daemon does not know of it yet: "+
			strings.Join(names, ", "), client.UpgradeCommand)
	}
	if err := d.networks.Beside(now.Networks); err != nil {
		c.Warn("networks", "new tasks would be refused after an upgrade until those that run have ended: "+err.Error(),
			"stop those tasks first, or leave the network as it is in "+d.cfg.Path)
	}
}

func (d *Daemon) checkConsul(ctx context.Context, c *host.Checks) {
	if d.catalog == nil {
		c.Warn("consul", "no services are registered", "set consul { address } in the host configuration")
		return
	}
	if err := d.catalog.Ping(ctx); err != nil {
		c.Bad("consul", fmt.Sprintf("%s: %v", d.cfg.Consul.Address, err),
			"start the Consul agent, or fix consul { address, token_file } in the host configuration")
		return
	}
	c.OK("consul", d.cfg.Consul.Address)
}
