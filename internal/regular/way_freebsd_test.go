package regular

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What a file of a root is by an fdescfs in it is one of this process's own: it is not opened.
func TestNoFileOfOursIsInARoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	base := t.TempDir()
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root + "/fd", root + "/nodup", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(outside, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for at, opts := range map[string]string{"fd": "rw", "nodup": "rw,nodup"} {
		if out, err := exec.Command("mount", "-t", "fdescfs", "-o", opts, "fdescfs",
			filepath.Join(root, at)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		defer exec.Command("umount", "-f", filepath.Join(root, at)).Run()
	}
	r, err := Root(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, name := range []string{fmt.Sprintf("fd/%d", file.Fd()), fmt.Sprintf("nodup/%d", file.Fd()),
		fmt.Sprintf("nodup/%d/f", dir.Fd())} {
		if err := os.Symlink(name, filepath.Join(root, "passwd")); err != nil {
			t.Fatal(err)
		}
		f, _, err := OpenRooted(r, "passwd")
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "fdescfs") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(root, "passwd")); err != nil {
			t.Fatal(err)
		}
	}
}
