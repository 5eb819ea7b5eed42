package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The chain of a path is the same for every path of one directory.
func TestChain(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	a, b, none := chain(dir+"/a"), chain(dir+"/b"), chain(dir+"/b/none/at/all")
	if len(a) < 3 || strings.Join(a, " ") != strings.Join(b, " ") || a[0] == "" {
		t.Errorf("a directory is %q, by a link %q", a, b)
	}
	if none[0] != "" || strings.Join(none[1:], " ") != strings.Join(a, " ") {
		t.Errorf("below %q nothing is %q", a, none)
	}
	if root := chain("/"); len(root) != 1 || root[0] != a[len(a)-1] {
		t.Errorf("the root is %q", root)
	}
}
