package driver

import (
	"cmp"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
)

// unit is how a host starts the daemon itself: a script of rc(8), or a unit of
// systemd. A daemon that the plugin starts between its stop and its start would keep
// its own from starting.
type unit struct {
	path  string
	start string // the command that does
	// socket tells where that daemon listens; empty is the default.
	socket func() string
}

func rcUnit(path string) unit { return unit{path, "service freejail start", rcSocket} }

func systemdUnit(dir string) unit {
	return unit{dir + "/freejail.service", "systemctl start freejail", func() string { return "" }}
}

// hostUnits are looked for in the order of the systems themselves.
var hostUnits = []unit{rcUnit("/etc/rc.d/freejail"), rcUnit("/usr/local/etc/rc.d/freejail"),
	systemdUnit("/etc/systemd/system"), systemdUnit("/run/systemd/system"),
	systemdUnit("/usr/local/lib/systemd/system"),
	systemdUnit("/usr/lib/systemd/system"), systemdUnit("/lib/systemd/system")}

// rcSocket is what rc.conf(5) says; a host that does not say has the default.
func rcSocket() string {
	out, err := exec.Command("/usr/sbin/sysrc", "-qn", "freejail_socket").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// hostStarts tells in words by what the host starts the daemon of a socket; empty
// where it does not.
func hostStarts(socket string) string {
	i := slices.IndexFunc(hostUnits, func(u unit) bool {
		_, err := os.Stat(u.path)
		return err == nil && cmp.Or(u.socket(), client.DefaultSocket) == socket
	})
	if i < 0 {
		return ""
	}
	return hostUnits[i].path + " (" + hostUnits[i].start + ")"
}
