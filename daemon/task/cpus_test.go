package task

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// What is no cgroup's is not read, wherever a path of it leads.
func TestProcessorsAreOfACgroup(t *testing.T) {
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "secret"), []byte("0"), 0o600)
	if err := errors.Join(err, os.Symlink("secret", filepath.Join(dir, "cpuset.cpus.effective"))); err != nil {
		t.Fatal(err)
	}
	m := &Manager{Host: Host{Log: hclog.NewNullLogger()}}
	for _, of := range []string{dir, filepath.Join(dir, "none"), "", "/proc/self"} {
		if got := m.processors(of); got != "" {
			t.Errorf("%s: %q", of, got)
		}
	}
}
