package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What the host has mounted below a source comes along, but is no more than the
// mount: as read-only, and without set-uid programs.
func TestOptionsHoldForMountsBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for _, d := range []string{filepath.Join(src, "below"), dst} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	err := Do(Mount{Type: "tmpfs", Source: "tmpfs", Target: src + "/below"})
	if err == nil {
		err = Do(Mount{Type: "nullfs", Source: src, Target: dst, Options: []string{"ro", "nosuid", "noexec"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst+"/below/x", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("a mount below a read-only one was written to: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dst+"/below", &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_NOSUID | unix.ST_NOEXEC | unix.ST_RDONLY); st.Flags&want != want {
		t.Errorf("a mount below has the flags %x, without some of %x", st.Flags, want)
	}
	if err := os.WriteFile(src+"/below/x", nil, 0o644); err != nil {
		t.Errorf("the host's own mount: %v", err)
	}
}
