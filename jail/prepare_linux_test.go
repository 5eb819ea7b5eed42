package jail

import (
	"errors"
	"path/filepath"
	"syscall"
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

// usualSignals: runc, a program of Go's, has its own way with them.
const usualSignals = ""

func signals() string { return "" }

// becomeOdd is what a shell may have made of a daemon.
func becomeOdd() error {
	syscall.Umask(0o077)
	var errs []error
	for r, n := range map[int]uint64{unix.RLIMIT_CPU: 900, unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 200} {
		var now unix.Rlimit
		errs = append(errs, unix.Getrlimit(r, &now))
		errs = append(errs, unix.Setrlimit(r, &unix.Rlimit{Cur: n, Max: now.Max}))
	}
	return errors.Join(errs...)
}

func insideNest() {}

const ordinaryNice = 20 // as the kernel tells it

func lookAtMemory(*Manager) {}

func insideShared(string) {}
