package daemon

import (
	"errors"
	"net"
	"strings"

	"github.com/freejail/freejail/daemon/client"
)

func splitOptions(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func hasEnv(env []string, name string) bool {
	for _, kv := range env {
		if strings.HasPrefix(kv, name+"=") {
			return true
		}
	}
	return false
}

// checkSysctls compares what an image needs of the host's sysctls with what
// they are: freejail never changes the host's.
func checkSysctls(want map[string]string) error {
	for name, v := range want {
		got, err := sysctl(name)
		if err != nil {
			return invalid("sysctl %s: %v", name, err)
		}
		if got != v {
			return invalid("the task needs the host's sysctl %s to be %s, it is %s: set it with `sysctl %s=%s`", name, v, got, name, v)
		}
	}
	return nil
}

// doctor examines the host for its owner.
func (d *Daemon) doctor() []client.Check {
	var out []client.Check
	add := func(name, status, detail, fix string) {
		out = append(out, client.Check{Name: name, Status: status, Detail: detail, Fix: fix})
	}
	i := d.info()
	add("daemon", "ok", "version "+i.Version+", state in "+i.StateDir, "")
	if i.Healthy {
		add("storage", "ok", "driver "+i.Storage, "")
	} else {
		add("storage", "error", i.Reason, "free space in the state directory, or choose storage { driver } in the host configuration")
	}
	switch {
	case d.cfg.Path == "":
		add("policy", "warning", "there is no host configuration: every request is refused", "start the daemon with --config FILE")
	case i.PolicyError != "":
		add("policy", "error", i.PolicyError, "mend "+d.cfg.Path)
	default:
		add("policy", "ok", d.cfg.Path+" "+i.PolicyDigest, "")
	}
	if d.catalog == nil {
		add("consul", "warning", "no services are registered", "set consul { address } in the host configuration")
	} else {
		add("consul", "ok", d.cfg.Consul.Address, "")
	}
	return append(out, platformChecks(i.Features)...)
}

// peerUID is the user at the other end of a unix socket.
func peerUID(c net.Conn) (int, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return -1, err
	}
	uid, cerr := -1, error(nil)
	err = raw.Control(func(fd uintptr) { uid, cerr = socketPeer(int(fd)) })
	return uid, errors.Join(err, cerr)
}
