package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/nfsroot"
)

// Checks is a report on the host for its owner.
type Checks []client.Check

// OK notes what is as it should be.
func (c *Checks) OK(name, detail string) {
	c.note("ok", name, detail, "")
}

// Warn notes what limits freejail; fix is a command or a sentence that helps.
func (c *Checks) Warn(name, detail, fix string) {
	c.note("warning", name, detail, fix)
}

// Bad notes what keeps freejail from working.
func (c *Checks) Bad(name, detail, fix string) {
	c.note("error", name, detail, fix)
}

// note adds a check whose detail, such as several errors, is one line.
func (c *Checks) note(status, name, detail, fix string) {
	*c = append(*c, client.Check{Name: name, Status: status, Detail: printable.Flat(detail), Fix: fix})
}

// Examine examines what freejail needs of a host, whether or not a daemon
// runs there: of a running one the networks are as it has them, else nil.
func Examine(cfg Config, networks []NetworkState) Checks {
	var c Checks
	c.user()
	c.group(cfg)
	c.state(cfg)
	c.plugin()
	c.system(cfg)
	c.nfsClient(cfg)
	c.networks(cfg, networks)
	return c
}

func (c *Checks) user() {
	if os.Geteuid() != 0 {
		c.Bad("user", fmt.Sprintf("uid %d: jails and the daemon's socket are root's", os.Geteuid()),
			"run freejail as root")
	}
}

// group looks for the group that may use the socket, which may have been removed since.
func (c *Checks) group(cfg Config) {
	if cfg.SocketGroup == nil {
		return
	}
	g, err := user.LookupGroupId(strconv.Itoa(*cfg.SocketGroup))
	if err != nil {
		c.Bad("socket", fmt.Sprintf("its group %d: %v", *cfg.SocketGroup, err),
			"choose another socket_group in the host configuration")
		return
	}
	c.OK("socket", fmt.Sprintf("%s, for root and members of the group %s", cfg.Socket, g.Name))
}

// littleSpace is too little for an image of a usual size.
const littleSpace = 1 << 30

func (c *Checks) state(cfg Config) {
	dir := cfg.StateDir
	_, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" { // the daemon makes it
		dir = filepath.Dir(dir)
		_, err = os.Stat(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		c.Bad("state", fmt.Sprintf("%s: %v", dir, err), "choose another state_dir in the host configuration")
		return
	}
	free := uint64(max(0, int64(st.Bavail))) * uint64(st.Bsize)
	detail := fmt.Sprintf("%s on %s, %s free", dir, fsName(&st), units.BytesSize(float64(free)))
	if free < littleSpace {
		c.Warn("state", detail, "free space there, `freejail gc` removes unused images, or choose another state_dir")
	} else {
		c.OK("state", detail)
	}
	c.stateFS(cfg, fsName(&st))
}

// plugin looks where `make install` puts it: beside the program's directory.
func (c *Checks) plugin() {
	self, err := os.Executable()
	if err != nil {
		c.Warn("plugin", err.Error(), "")
		return
	}
	path := filepath.Join(filepath.Dir(filepath.Dir(self)), "libexec", "nomad", "plugins", "freejail")
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		c.Warn("plugin", fmt.Sprintf("not installed for Nomad: %v", err),
			fmt.Sprintf("mkdir -p %s && ln -s %s %s", filepath.Dir(path), self, path))
		return
	}
	if real, err := filepath.EvalSymlinks(self); err != nil || target != real {
		c.Warn("plugin", fmt.Sprintf("%s is %s, not this program, %s", path, target, self),
			fmt.Sprintf("ln -sf %s %s", self, path))
		return
	}
	c.OK("plugin", path)
}

// nfsClient tells whether this host can have roots over NFS, where it is to.
func (c *Checks) nfsClient(cfg Config) {
	if len(cfg.NFS.Servers) == 0 {
		return
	}
	if missing := nfsroot.ClientMissing(); missing != "" {
		c.Bad("nfs", missing, "use a kernel with an NFS client (on FreeBSD: options NFSCL, as GENERIC has), "+
			"or remove nfs { servers } from the host configuration")
		return
	}
	c.OK("nfs", fmt.Sprintf("version %d, client in the kernel", cfg.NFS.Options.Version))
}
