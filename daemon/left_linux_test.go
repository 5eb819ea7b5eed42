package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// leftOnHost tells of cgroups and mounts of tasks whose ids begin like this.
func leftOnHost(t *testing.T, dir, prefix string) string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/freejail/", "/sys/fs/cgroup/*/freejail/"} {
		found, err := filepath.Glob(pattern + "fj-" + prefix + "*")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	list, err := mount.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		out = append(out, m.Target)
	}
	return strings.Join(out, "\n")
}

// kernelRulesets are none on this system.
func kernelRulesets(*testing.T) []int { return nil }

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	e, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
