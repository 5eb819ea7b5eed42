package network

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Of two daemons one has the anchor, and the other one is told which.
func TestAnchorIsOneDaemons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	one, two := &anchorLock{path: path, stateDir: "/one"}, &anchorLock{path: path, stateDir: "/two"}
	if err := errors.Join(one.free(), two.free(), one.take(), one.take(), one.free()); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"take": two.take(), "free": two.free()} {
		if !errors.Is(err, errNoFilter) || !strings.Contains(err.Error(), "state directory /one, has the anchor") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (&anchorLock{path: path, stateDir: "/one"}).free(); err != nil { // as of doctor without a daemon
		t.Error(err)
	}
	if err := errors.Join(one.leave(), two.free(), two.take(), two.leave()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if err := two.free(); err == nil {
		t.Error("a link is followed")
	}
}
