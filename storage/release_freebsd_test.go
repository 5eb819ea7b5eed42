package storage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// What others have mounted on a root, in it, or where it keeps its files, goes with it; nothing is removed from there.
func TestRemoveWhereOthersMount(t *testing.T) {
	for _, kind := range []string{"union", "readonly", "zfs"} {
		t.Run(kind, func(t *testing.T) { removeMounted(t, openFor(t, kind), kind) })
	}
}

func removeMounted(t *testing.T, d Driver, kind string) {
	release, err := d.EnsureChain(t.Context(), []string{"chain"}, func(dir string, _, _ int) error { return fill(dir) })
	check(t, err)
	defer release()
	theirs := t.TempDir()
	precious := filepath.Join(theirs, "precious")
	check(t, os.WriteFile(precious, []byte("theirs"), 0o600))
	places := map[string]func(root string) string{
		"in it":     func(root string) string { return filepath.Join(root, "etc") },
		"on it":     func(root string) string { return root },
		"its files": func(root string) string { return filepath.Join(filepath.Dir(filepath.Dir(root)), "roots", "task") },
		"deep in its files": func(root string) string {
			return filepath.Join(filepath.Dir(filepath.Dir(root)), "roots", "task", map[string]string{"union": "upper",
				"readonly": "own"}[kind], "x")
		},
	}
	for name, place := range places {
		if kind == "zfs" && (strings.HasSuffix(name, "files") || name == "on it") { // which it refuses
			continue
		}
		root, err := d.Create(t.Context(), "chain", "task", Options{})
		check(t, err)
		at := place(root)
		if strings.HasPrefix(name, "deep") {
			check(t, os.Mkdir(at, 0o700))
		}
		if out, err := exec.Command("/sbin/mount", "-t", "nullfs", theirs, at).CombinedOutput(); err != nil {
			t.Fatalf("%s: %s", name, out)
		}
		if err := d.Remove(context.Background(), "task"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if there, err := mount.Below(root, filepath.Join(filepath.Dir(filepath.Dir(root)), "roots", "task")); err != nil ||
			len(there) > 0 {
			t.Errorf("%s: mounted are %v, %v", name, there, err)
		}
		if b, err := os.ReadFile(precious); err != nil || string(b) != "theirs" {
			t.Errorf("%s: a file of another's is %q, %v", name, b, err)
		}
		if left, err := d.Tasks(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%s: left are %v, %v", name, left, err)
		}
	}
}

// The directory of mount points is mounted a moment longer than there are any, and no longer than the driver is used.
func TestPointsOfNoTask(t *testing.T) {
	u, root := linked(t, fill)
	base := filepath.Dir(root)
	mounted := func() bool {
		at, err := mount.At(base)
		check(t, err)
		return at.Target == base
	}
	check(t, u.Remove(t.Context(), filepath.Base(root)))
	again, err := u.Create(t.Context(), "c", "again", Options{})
	check(t, err)
	check(t, u.Rest(t.Context())) // there is one in it
	if again != filepath.Join(base, "again") || !mounted() {
		t.Errorf("a root is at %s, its directory is mounted: %v", again, mounted())
	}
	check(t, u.Remove(t.Context(), "again"))
	check(t, u.Rest(t.Context()))
	if mounted() {
		t.Error("it is mounted still")
	}
}
