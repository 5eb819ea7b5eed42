package jail

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// prepare makes the one node that runc itself needs.
func prepare(t *testing.T, root string) {
	if err := unix.Mknod(filepath.Join(root, "dev", "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
}
