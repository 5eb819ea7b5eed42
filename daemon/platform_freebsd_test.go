package daemon

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// What the daemon itself mounts it has loaded, before a task's mount would be
// asked for it.
func TestDaemonLoadsItsOwnModules(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a module needs root")
	}
	var unloaded []string
	for _, name := range ownModules(Config{Storage: &StorageConfig{Driver: "union"}}) {
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

// Sysctls of several types, as text: a name of seven letters is no number.
// Who runs tasks on unions is told what they can do to the host.
func TestDoctorTellsOfUnions(t *testing.T) {
	for driver, told := range map[string]bool{"union": true, "auto": true, "readonly": false, "zfs": false} {
		var c checks
		c.stateFS(Config{Storage: &StorageConfig{Driver: driver}}, "ufs")
		if told != (len(c) == 1 && strings.Contains(c[0].Detail, "panic")) {
			t.Errorf("%s: %+v", driver, c)
		}
	}
}
