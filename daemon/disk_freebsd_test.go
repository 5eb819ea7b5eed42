package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// On ZFS a task's writes fail at its limit; nobody has to end it.
func TestDiskQuota(t *testing.T) {
	pool := os.Getenv("FREEJAIL_TEST_ZPOOL")
	if pool == "" {
		t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
	}
	dataset := fmt.Sprintf("%s/freejail-disk-%d", pool, os.Getpid())
	dir := shortDir(t)
	t.Cleanup(func() {
		if said, err := exec.Command("zfs", "destroy", "-rf", dataset).CombinedOutput(); err != nil {
			t.Errorf("zfs destroy: %v: %s", err, said)
		}
	})
	c, _ := daemonAt(t, dir, fmt.Sprintf("storage {\n  driver = \"zfs\"\n  zfs_dataset = %q\n}\n", dataset))
	spec := fills("what does not compress", "")
	spec.Image = archive(t, "")
	if _, err := c.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	e, err := c.Wait(t.Context(), diskTask)
	var log bytes.Buffer
	if lerr := c.Logs(t.Context(), diskTask, "stdout", false, -1, &log); err != nil || lerr != nil || e.Disk ||
		e.Code != 98 ||
		!strings.Contains(strings.ToLower(log.String()), "quota exceeded") {
		t.Errorf("it ended with %+v, its log is %q: %v %v", e, log.String(), err, lerr)
	}
	if err := c.Destroy(t.Context(), diskTask, false); err != nil {
		t.Fatal(err)
	}
}
