package testprog

import (
	"os"
	"path/filepath"
	"testing"
)

// Open is a copy of this program, in a directory of its own, which every user of the host may start.
func Open(t testing.TB) string {
	t.Helper()
	at := os.TempDir()
	for dir := at; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm()&1 == 0 {
			at = "/var/tmp" // which is open
		}
	}
	dir, err := os.MkdirTemp(at, "fjprog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(self)
	}
	name := filepath.Join(dir, "prog")
	if err == nil {
		err = os.WriteFile(name, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(name, 0o755) // whatever the umask
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}
