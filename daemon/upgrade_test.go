package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// A program that hangs, or a host that is too busy for it, is not taken for one that is not freejail's.
func TestUpgradeToAProgramThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hangs")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := answerOf(50*time.Millisecond, nil, path, "version")
	if err == nil || client.AsError(err).Code != client.CodeUnavailable ||
		!strings.Contains(err.Error(), path+" version did not end within 50ms") {
		t.Errorf("it is told as: %v", err)
	}
	if out, err := answerOf(time.Minute, []string{"FREEJAIL_ASKED=x"}, "/bin/sh", "-c", "echo $FREEJAIL_ASKED"); err != nil ||
		string(out) != "x\n" {
		t.Errorf("one that answers: %q, %v", out, err)
	}
}
