package storage

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

func copyRange(from, to *os.File, n int) (int, error) {
	return unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), nil, n, 0)
}

// watched does something and has inotify tell of it.
func watched(name string, do func() error) (err error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY); err != nil {
		return err
	}
	err = do()
	_, nothing := unix.Read(fd, make([]byte, 4096))
	return errors.Join(err, want(nothing == nil, "not seen"))
}

// fileFlags are FreeBSD's.
func fileFlags() error { return nil }

// Podman's overlay is what others have: the same in a root that it has mounted.
func TestWhatProgramsDoToPodmansFiles(t *testing.T) {
	needsStatic(t)
	if _, err := exec.LookPath("podman"); err != nil || os.Geteuid() != 0 {
		t.Skip("it needs root and podman")
	}
	image := t.TempDir()
	if err := fillTable(image); err != nil {
		t.Fatal(err)
	}
	store, err := os.MkdirTemp("", "fj") // podman takes a short path alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, errors.Join(mount.UnmountUnder(store), os.RemoveAll(store))) })
	podman := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("podman", append([]string{"--root", store + "/root", "--runroot", store + "/run",
			"--storage-driver", "overlay"}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("podman %s: %v", args[0], err)
		}
		return strings.TrimSpace(string(out))
	}
	tar := filepath.Join(t.TempDir(), "image.tar")
	if out, err := exec.Command("tar", "-C", image, "-cf", tar, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	cmd := exec.Command("/prog")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: podman("mount",
		podman("create", podman("import", "-q", tar), "/prog"))}, "/"
	compareTable(t, "podman", cmd)
}
