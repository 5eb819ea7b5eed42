package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/internal/mount"
)

// What config init writes passes the daemon's check, and no file is replaced.
func TestConfigInit(t *testing.T) {
	h := away(t)
	file := h.path("freejail.hcl")
	printed := h.gives(0, []string{"state_dir", "storage {"}, "config", "init", "--print")
	h.gives(0, []string{file + " is written", "its policy permits nothing yet"}, "config", "init", "-o", file)
	if b, err := os.ReadFile(file); err != nil || string(b) != printed {
		t.Errorf("written %q, printed %q: %v", b, printed, err)
	}
	h.gives(0, []string{"is valid"}, "daemon", "--check", "--config", file, "--state-dir", h.path("state"))
	h.gives(app.Failed, []string{"is never changed: --print"}, "config", "init", "-o", file)
}

// Of a file that does not fit nothing stays.
func TestConfigThatDoesNotFit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: dir, Options: []string{"size=1048576"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "freejail.hcl")
	if err := writeConfig(file, strings.Repeat("# text\n", 1<<18)); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part stayed: %v", err)
	}
}
