package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// checks is a report on the host for its owner.
type checks []client.Check

func (c *checks) ok(name, detail string) {
	*c = append(*c, client.Check{Name: name, Status: "ok", Detail: detail})
}

func (c *checks) warn(name, detail, fix string) {
	*c = append(*c, client.Check{Name: name, Status: "warning", Detail: detail, Fix: fix})
}

func (c *checks) bad(name, detail, fix string) {
	*c = append(*c, client.Check{Name: name, Status: "error", Detail: detail, Fix: fix})
}

// doctor examines the daemon and its host.
func (d *Daemon) doctor(ctx context.Context) []client.Check {
	var c checks
	i := d.info()
	c.ok("daemon", fmt.Sprintf("version %s, process %d, %d tasks, socket %s", i.Version, i.PID, i.Tasks, d.cfg.Socket))
	switch {
	case i.Healthy:
		c.ok("storage", "driver "+i.Storage)
	case i.ShutDown:
		c.bad("shutdown", i.Reason, startAgain)
	default:
		c.bad("storage", i.Reason, "free space in the state directory, or choose storage { driver } in the host configuration")
	}
	switch {
	case d.cfg.Path == "":
		c.warn("policy", "there is no host configuration: every request is refused", "start the daemon with --config FILE")
	case i.PolicyError != "":
		c.bad("policy", i.PolicyError, "mend "+d.cfg.Path+", then: freejail policy reload")
	default:
		c.ok("policy", d.cfg.Path)
	}
	d.checkDamages(&c)
	d.checkStrays(ctx, &c)
	d.checkLeft(&c)
	d.checkConsul(ctx, &c)
	d.checkNFS(ctx, &c)
	return append(c, HostChecks(d.cfg)...)
}

func (d *Daemon) checkConsul(ctx context.Context, c *checks) {
	if d.catalog == nil {
		c.warn("consul", "no services are registered", "set consul { address } in the host configuration")
		return
	}
	if err := d.catalog.Ping(ctx); err != nil {
		c.bad("consul", fmt.Sprintf("%s: %v", d.cfg.Consul.Address, err), "start the Consul agent, or mend consul { address, token_file } in the host configuration")
		return
	}
	c.ok("consul", d.cfg.Consul.Address)
}

// HostChecks examines what freejail needs of a host, whether or not a daemon
// runs there.
func HostChecks(cfg Config) []client.Check {
	var c checks
	c.user()
	c.state(cfg)
	c.plugin()
	c.system(cfg)
	c.nfsClient(cfg)
	return c
}

func (c *checks) user() {
	if os.Geteuid() != 0 {
		c.bad("user", fmt.Sprintf("uid %d: jails and the daemon's socket are root's", os.Geteuid()), "run freejail as root")
	}
}

// littleSpace is too little for an image of a usual size.
const littleSpace = 1 << 30

func (c *checks) state(cfg Config) {
	dir := cfg.StateDir
	_, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" { // the daemon makes it
		dir = filepath.Dir(dir)
		_, err = os.Stat(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		c.bad("state", fmt.Sprintf("%s: %v", dir, err), "choose another state_dir in the host configuration")
		return
	}
	free := uint64(max(0, int64(st.Bavail))) * uint64(st.Bsize)
	detail := fmt.Sprintf("%s on %s, %s free", dir, fsName(&st), units.BytesSize(float64(free)))
	if free < littleSpace {
		c.warn("state", detail, "free space there, `freejail gc` removes unused images, or choose another state_dir")
	} else {
		c.ok("state", detail)
	}
	c.stateFS(cfg, fsName(&st))
}

// plugin looks where `make install` puts it: beside the program's directory.
func (c *checks) plugin() {
	self, err := os.Executable()
	if err != nil {
		c.warn("plugin", err.Error(), "")
		return
	}
	path := filepath.Join(filepath.Dir(filepath.Dir(self)), "libexec", "nomad", "plugins", "freejail")
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		c.warn("plugin", fmt.Sprintf("Nomad finds none: %v", err), fmt.Sprintf("mkdir -p %s && ln -s %s %s", filepath.Dir(path), self, path))
		return
	}
	if real, err := filepath.EvalSymlinks(self); err != nil || target != real {
		c.warn("plugin", fmt.Sprintf("%s is %s, not this program, %s", path, target, self), fmt.Sprintf("ln -sf %s %s", self, path))
		return
	}
	c.ok("plugin", path)
}
