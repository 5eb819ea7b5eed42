package daemon

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/testimage"
)

const testMemory = 64 << 20 // bytes

// No tmpfs of a task can take all of the host's memory: one without a size has that
// of the task's memory, and all of them count as that.
func TestFileSystemsInMemoryAreBounded(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit { mounts = [\"tmpfs\"] }")
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "fill", Cmd: []string{"fill", "memory"},
		Manifest: `{"schemaVersion":1}`})
	if err != nil {
		t.Fatal(err)
	}
	all, err := host.Memory()
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{testMemory, 0} {
		id := fmt.Sprintf("mem%d-%d", limit, os.Getpid())
		task, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path,
			Limits: client.Limits{MemoryBytes: limit},
			Volumes: []client.Mount{{Type: "tmpfs", Target: "/mem/1"}, {Type: "tmpfs", Target: "/mem/2"},
				{Type: "tmpfs", Target: "/own", Options: "size=1m"}}})
		if err != nil {
			t.Fatal(err)
		}
		want := limit
		if limit == 0 {
			want = int64(all / 2)
		}
		for target, want := range map[string]int64{"/mem/1": want, "/mem/2": want, "/own": 1 << 20} {
			var st unix.Statfs_t
			if err := unix.Statfs(task.Root+target, &st); err != nil {
				break // it has ended
			}
			if got := int64(st.Blocks) * int64(st.Bsize); max(got-want, want-got) > 8192 { // whole pages
				t.Errorf("%s has %d bytes, want %d", target, got, want)
			}
		}
		if limit > 0 {
			exit, err := c.Wait(t.Context(), id)
			if err != nil || !exit.OOM {
				t.Errorf("it has twice what it may have: %+v %v", exit, err)
			}
		}
		if err := c.Destroy(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
}
