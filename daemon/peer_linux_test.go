package daemon

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The socket refuses root of another namespace.
func TestNamespacesAreRefused(t *testing.T) {
	dir := shortDir(t)
	daemonAt(t, dir, "")
	socket := filepath.Join(dir, "s")
	for name, attr := range map[string]*syscall.SysProcAttr{
		"PID namespace": {Cloneflags: syscall.CLONE_NEWPID},
		"user namespace": {Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{Size: 1}}},
	} {
		if got := asked(t, socket, attr); !strings.Contains(got, "only root of the host may talk") {
			t.Errorf("%s: root there hears %q", name, got)
		}
	}
}
