package cli

import (
	"os"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
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
