package storage

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// blocked makes a directory with something in it that cannot be removed.
func blocked(t *testing.T, dir string) {
	t.Helper()
	at := filepath.Join(dir, "mounted")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: at}); err != nil {
		t.Fatal(err)
	}
}

// What cannot be removed of a chain, or of an unpacking that was cut off, is told,
// keeps neither a driver from being opened nor a chain from vanishing, and goes
// when it can.
func TestLeftovers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	t.Cleanup(func() {
		if err := mount.UnmountUnder(base); err != nil {
			t.Error(err)
		}
	})
	blocked(t, filepath.Join(base, "tmp", "chain-1"))
	blocked(t, filepath.Join(base, "chains", "c"))
	d, err := makeDirs(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveChain(t.Context(), "c"); err != nil {
		t.Errorf("the chain: %v", err)
	}
	if names, err := d.Chains(context.Background()); err != nil || len(names) != 0 {
		t.Errorf("chains: %v %v", names, err)
	}
	told := strings.Join(d.Leftovers(), "\n")
	for _, want := range []string{"/tmp/chain-1: ", "/tmp/gone-", "a file system is mounted there"} {
		if !strings.Contains(told, want) {
			t.Errorf("told is %q, want %q in it", told, want)
		}
	}
	if again, err := makeDirs(base); err != nil || len(again.Leftovers()) != 2 {
		t.Errorf("the next driver tells %v: %v", again.Leftovers(), err)
	}
	if err := mount.UnmountUnder(base); err != nil {
		t.Fatal(err)
	}
	last, err := makeDirs(base)
	if err != nil || len(last.Leftovers()) != 0 {
		t.Errorf("the last driver tells %v: %v", last.Leftovers(), err)
	}
	if left, err := os.ReadDir(filepath.Join(base, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
