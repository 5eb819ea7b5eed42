package jail

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// prepare makes the one node that runc itself needs.
func prepare(t testing.TB, root string) {
	if err := unix.Mknod(filepath.Join(root, "dev", "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
}

// leaveReaper gives orphans to init, as the end of a daemon does.
func leaveReaper(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func isZombie(pid int) bool {
	f, err := procStat(pid)
	must(err)
	return f[0] == "Z"
}

func removeBehindBack(*Manager, string) error {
	return errors.New("a container cannot be removed behind runc's back")
}

// mountDev has nothing to do: runc makes the terminals.
func mountDev(testing.TB, string) {}
