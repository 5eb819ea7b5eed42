package mount

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// As a process in the root would find it, and nowhere else.
func TestInside(t *testing.T) {
	root := realTemp(t)
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a/f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"abs": "/a/b", "up": "../../../../a", "a/b/root": "/",
		"dangling": "/new/x", "a/chain": "/abs/../../abs", "loop": "/loop", "outside": "/../.." + root, "file": "/a/f"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	dir := place(t, root)
	for name, want := range map[string][2]string{
		"/abs": {"a/b", ""}, "/up/b": {"a/b", ""}, "/abs/root/a": {"a", ""}, "/dangling/y": {"", "new/x/y"},
		"/a/chain": {"a/b", ""}, "/abs/n/m": {"a/b", "n/m"}, "/outside": {"", strings.TrimPrefix(root, "/")},
	} {
		if have, lacks, err := DeepestInside(dir, name); err != nil || have != want[0] || lacks != want[1] {
			t.Errorf("%s: %q and %q, %v; want %q", name, have, lacks, err, want)
		}
	}
	if _, _, err := DeepestInside(dir, "/loop"); err == nil {
		t.Error("a loop has an end")
	}
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, want := range map[string]string{"/dangling/y": "/new/x/y", "/outside/z": root + "/z", "/abs": "/a/b"} {
		p, err := r.Inside(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Path() != root+want || !sameFile(t, p, root+want) {
			t.Errorf("%s is %s", name, p.Path())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, good := range map[string]bool{"/file": true, "/a/f": true, "/abs": false, "/none": false, "/loop": false} {
		p, err := r.FileInside(name)
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (!sameFile(t, p, root+"/a/f") || p.Close() != nil) {
			t.Errorf("%s is %s", name, p.Path())
		}
	}
}
