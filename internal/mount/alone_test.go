package mount

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// In a root that is nobody else's yet, what is mounted on is what was opened, also in a directory of the host's that
// others move about; and what was mounted in the root lies where it was said to.
func TestRootThatIsAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir := realTemp(t)
	root, shared := filepath.Join(dir, "root"), filepath.Join(dir, "shared")
	for _, name := range []string{root, shared, filepath.Join(shared, "x"), filepath.Join(dir, "elsewhere")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := UnmountUnder(root); err != nil {
			t.Error(err)
		}
	}()
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Alone(); err != nil {
		t.Fatal(err)
	}
	by, err := OpenDescriptors(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	defer by.Close()
	on := func(target string, m Mount, before func()) {
		t.Helper()
		p, err := r.Dir(target)
		if err != nil {
			t.Fatal(err)
		}
		before()
		if err := by.On(p, m); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func() {}
	tmpfs := Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}}
	on("/own", tmpfs, nothing)
	on("/own/in", tmpfs, nothing)
	on("/shared", Mount{Type: "nullfs", From: place(t, shared)}, nothing)
	on("/shared/x", tmpfs, func() {
		if err := os.Rename(filepath.Join(shared, "x"), filepath.Join(shared, "y")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(shared, "x")); err != nil {
			t.Fatal(err)
		}
	})
	all, err := Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, m.Target[len(dir):]+" "+m.Type)
	}
	slices.Sort(got)
	for _, at := range []string{"/root/own tmpfs", "/root/own/in tmpfs"} {
		if !slices.Contains(got, at) {
			t.Errorf("%s is not among %q", at, got)
		}
	}
	if slices.Contains(got, "/elsewhere tmpfs") || !slices.ContainsFunc(got, func(m string) bool {
		return m == "/root/shared/y tmpfs" || m == "/shared/y tmpfs"
	}) {
		t.Errorf("the mount in a directory that was moved is not with that: %q", got)
	}
}
