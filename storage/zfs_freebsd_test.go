package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// After a restart of the host there are many roots to be removed: each is one run
// of zfs(8), and one lists them all. No root is no error.
func TestRunsOfZFS(t *testing.T) {
	pool := os.Getenv("FREEJAIL_TEST_ZPOOL")
	if pool == "" {
		t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
	}
	dir := t.TempDir()
	set := fmt.Sprintf("%s/freejail-runs-%d", pool, os.Getpid())
	d, err := Open("zfs", dir, Config{ZFSDataset: set})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroy(t, set) })
	release, err := d.EnsureChain(t.Context(), []string{"chain"}, func(string, int, int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for i := range 3 {
		if _, err := d.Create(t.Context(), "chain", fmt.Sprintf("t%d", i), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	log, bin := filepath.Join(dir, "runs"), filepath.Join(dir, "bin")
	script := fmt.Sprintf("#!/bin/sh\necho \"$1\" >>%s\nexec /sbin/zfs \"$@\"\n", log)
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "zfs"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	have, err := d.Tasks(t.Context())
	if err != nil || len(have) != 3 {
		t.Fatalf("%v %v", have, err)
	}
	for _, id := range have {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	b, err := os.ReadFile(log)
	if runs := strings.Fields(string(b)); err != nil || strings.Join(runs, " ") != "list destroy destroy destroy" {
		t.Errorf("it ran %q %v", runs, err)
	}
	if err := d.Remove(t.Context(), "t0"); err != nil {
		t.Errorf("a root that is gone: %v", err)
	}
	if have, err := d.Tasks(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("left: %v %v", have, err)
	}
}
