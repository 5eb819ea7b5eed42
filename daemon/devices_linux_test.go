package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// someDevice is a node in a directory of its own, of which no jail has the number unasked.
func someDevice(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev", "freejail-test")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []struct {
		name   string
		number uint64
	}{
		{"fuse", unix.Mkdev(10, 229)}, {"loop-control", unix.Mkdev(10, 237)},
		{"kmsg", unix.Mkdev(1, 11)}, // where kernel.dmesg_restrict is set it is for CAP_SYSLOG alone, which no task has
	} {
		node := filepath.Join(dir, d.name)
		if d.name == "kmsg" && restrictsMessages() {
			continue
		}
		if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(d.number)); err != nil {
			continue
		}
		if f, err := os.OpenFile(node, os.O_RDWR, 0); err == nil {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			return node
		}
	}
	t.Skip("no device of this host can be opened here")
	return ""
}

func restrictsMessages() bool {
	text, err := os.ReadFile("/proc/sys/kernel/dmesg_restrict")
	return err != nil || strings.TrimSpace(string(text)) != "0"
}

const directory = "/dev/shm"

// onlyOne: the cgroup keeps to what a device may be opened for, of root too.
func (v *victim) onlyOne(spec client.TaskSpec, access string) {
	v.t.Helper()
	if _, err := v.c.Start(v.t.Context(), spec); err != nil {
		v.t.Fatal(err)
	}
	for _, flag := range []string{"r", "w", "rw"} {
		want := syscall.EPERM
		if flag == access {
			want = 0
		}
		if got := syscall.Errno(v.opens(spec.Devices[0].Path, flag)); got != want {
			v.t.Errorf("given %s, opened for %s: %v, want %v", access, flag, got, want)
		}
	}
	if err := v.c.Destroy(v.t.Context(), spec.ID, true); err != nil {
		v.t.Error(err)
	}
}
