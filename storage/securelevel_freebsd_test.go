package storage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/remove"
)

// secured names the directory of a test that runs again in a jail with a
// securelevel of its own: the host's could not be lowered afterwards.
const secured = "FREEJAIL_TEST_SECURED"

// Where nobody can clear a file's schg, as base images have it, the chain vanishes
// all the same, what stays of it is told, the next daemon starts, and a task's
// copies can be removed. After a boot without that level the rest goes too.
func TestSecurelevel(t *testing.T) {
	if base := os.Getenv(secured); base != "" {
		inSecurelevel(t, base)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("making jails needs root")
	}
	base := t.TempDir()
	empty := filepath.Join(base, "chains", "c", "var", "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, filepath.Join(base, "chains", "c")} {
		if err := unix.Chflags(dir, 0x20000); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := remove.Tree(base); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("jail", "-c", "-q", fmt.Sprintf("name=secured%d", os.Getpid()), "path=/", "securelevel=1",
		"allow.chflags", "host=inherit",
		"command="+self, "-test.run", "^TestSecurelevel$", "-test.v")
	cmd.Env = append(os.Environ(), secured+"="+base)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v: %s", err, out)
	}
	d, err := makeDirs(base)
	if err != nil || len(d.Leftovers()) != 0 {
		t.Errorf("after the boot there is left %v: %v", d.Leftovers(), err)
	}
	if err := d.RemoveChain(t.Context(), "c"); err != nil {
		t.Errorf("a chain whose own directory has a flag: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(base, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func inSecurelevel(t *testing.T, base string) {
	if level := bsd.SecureLevel(); level != 1 {
		t.Fatalf("the level is %d", level)
	}
	d, err := makeDirs(base)
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(filepath.Join(base, "chains", "c", "var"))
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(base, "roots", "copy")
	if err := copyTree(t.Context(), from, copied); err != nil {
		t.Error(err)
	}
	if err := remove.Tree(copied); err != nil {
		t.Errorf("a task's copy cannot be removed: %v", err)
	}
	if err := d.RemoveChain(t.Context(), "c"); err == nil {
		t.Error("the chain's own flag does not keep it")
	}
	if err := os.Rename(filepath.Join(base, "chains", "c", "var"), filepath.Join(base, "tmp", "chain-1")); err == nil {
		t.Error("a flag does not keep a name")
	}
	if err := os.MkdirAll(filepath.Join(base, "chains", "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(base, "chains", "d", "locked")
	if err := os.WriteFile(locked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chflags(locked, 0x20000); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveChain(t.Context(), "d"); err != nil {
		t.Errorf("the chain: %v", err)
	}
	for range 2 {
		if told := d.Leftovers(); len(told) != 1 || !strings.Contains(told[0], "operation not permitted") {
			t.Errorf("told is %v", told)
		}
		if d, err = makeDirs(base); err != nil {
			t.Fatal(err)
		}
	}
}
