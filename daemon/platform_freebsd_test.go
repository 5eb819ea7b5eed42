package daemon

import (
	"os"
	"os/exec"
	"testing"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/mount"
)

// What the daemon itself mounts it has loaded, before a task's mount would be
// asked for it.
func TestDaemonLoadsItsOwnModules(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a module needs root")
	}
	var unloaded []string
	for _, name := range host.Modules(host.Config{Storage: host.Storage{Driver: "union"}}) {
		if out, err := exec.Command("kldunload", "-n", name).CombinedOutput(); err != nil && mount.Known(name) {
			t.Logf("in use, or part of the kernel: %s", out)
			continue
		}
		unloaded = append(unloaded, name)
	}
	if len(unloaded) == 0 {
		t.Skip("each is in use, or part of the kernel")
	}
	daemonAt(t, shortDir(t), "storage {\n  driver = \"union\"\n}\n")
	for _, name := range unloaded {
		if !mount.Known(name) {
			t.Errorf("%s is not loaded", name)
		}
	}
}
