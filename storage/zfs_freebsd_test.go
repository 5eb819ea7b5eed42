package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Roots come and go without a run of zfs(8), but for one that lists them all and one for each that has snapshots. No
// root is no error.
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
	t.Cleanup(func() { check(t, d.(Rester).Rest(context.Background())) })
	release, err := d.EnsureChain(t.Context(), []string{"chain"}, func(string, int, int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	log, bin := filepath.Join(dir, "runs"), filepath.Join(dir, "bin")
	script := fmt.Sprintf("#!/bin/sh\necho \"$1\" >>%s\nexec /sbin/zfs \"$@\"\n", log)
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "zfs"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for i := range 3 {
		root, err := d.Create(t.Context(), "chain", fmt.Sprintf("t%d", i), Options{DiskBytes: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Create(t.Context(), "chain", "t0", Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a root that is there already: %v", err)
	}
	on := d.(*zfsDriver).on(t, d.(*zfsDriver).point("t0"))
	quota, err := exec.Command("/sbin/zfs", "get", "-Hpo", "value", "quota", on).Output()
	if err != nil || strings.TrimSpace(string(quota)) != "8388608" {
		t.Errorf("its quota is %s %v", quota, err)
	}
	on = d.(*zfsDriver).on(t, d.(*zfsDriver).point("t2"))
	if out, err := exec.Command("/sbin/zfs", "snapshot", on+"@daily").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	have, err := d.Tasks(t.Context())
	if err != nil || len(have) != 3 {
		t.Fatalf("%v %v", have, err)
	}
	for _, id := range have {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	d.(*zfsDriver).settled(t)
	b, err := os.ReadFile(log)
	if runs := strings.Fields(string(b)); err != nil || strings.Join(runs, " ") != "list destroy" {
		t.Errorf("it ran %q %v", runs, err)
	}
	if err := d.Remove(t.Context(), "t0"); err != nil {
		t.Errorf("a root that is gone: %v", err)
	}
	if have, err := d.Tasks(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("left: %v %v", have, err)
	}
}
