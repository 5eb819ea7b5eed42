package remove

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dig makes directories in one another and calls in with each.
func dig(t *testing.T, dir, name string, levels int, in func(fd, level int)) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(t, err)
	for level := range levels {
		check(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		check(t, errors.Join(err, unix.Close(at)))
		at = next
		in(at, level)
	}
	check(t, unix.Close(at))
}

func touch(t *testing.T, dir int, name string) {
	t.Helper()
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	check(t, err)
	check(t, unix.Close(fd))
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// fewDescriptors is less than a deep tree has levels.
func fewDescriptors(t *testing.T) {
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	few := old
	few.Cur = 128
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	t.Cleanup(func() { check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}

// However deep a tree is, its removal holds few descriptors and meets no limit of
// a path's length, also where the names that deep directories get are taken.
func TestDeepTrees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	check(t, os.MkdirAll(filepath.Join(dir, "deep-1", "full"), 0o755))
	check(t, os.MkdirAll(filepath.Join(dir, "deep-3"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "deep-2"), nil, 0o644))
	dig(t, dir, "d", 800, func(fd, level int) {
		if level%50 == 0 {
			touch(t, fd, "f")
			check(t, unix.Symlinkat("/", fd, "l"))
			check(t, unix.Mkdirat(fd, "empty", 0o755))
		}
	})
	dig(t, dir, strings.Repeat("n", 200), 70, func(fd, _ int) { touch(t, fd, "f") })
	fewDescriptors(t)
	check(t, Tree(dir))
	gone(t, dir)
}

// A directory of many entries goes as a whole, and what links lead to stays.
func TestWideTrees(t *testing.T) {
	dir := t.TempDir()
	tree, kept := filepath.Join(dir, "tree"), filepath.Join(dir, "kept")
	check(t, os.WriteFile(kept, nil, 0o644))
	for i := range 300 {
		sub := filepath.Join(tree, fmt.Sprint(i%3))
		check(t, os.MkdirAll(sub, 0o755))
		for k := range 20 {
			check(t, os.WriteFile(filepath.Join(sub, strings.Repeat("x", 100)+fmt.Sprint(i, k)), nil, 0o644))
		}
		check(t, os.Symlink(kept, filepath.Join(sub, fmt.Sprint("l", i))))
	}
	check(t, os.Symlink(dir, filepath.Join(tree, "up")))
	check(t, unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600))
	check(t, Tree(tree))
	gone(t, tree)
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	check(t, Tree(tree))
	check(t, Tree(filepath.Join(tree, "no", "such")))
	check(t, os.Symlink(kept, tree))
	check(t, Tree(tree))
	gone(t, tree)
}

// A directory in which something is not there is tried once, however deep it is.
func TestFaultsWithin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	dig(t, dir, "d", 10, func(fd, level int) {
		if level == 9 {
			touch(t, fd, "f")
		}
	})
	tried := 0
	getdents = func(dir int, buf []byte) (int, error) {
		if unix.Faccessat(dir, "f", unix.F_OK, 0) == nil {
			tried++
			return 0, unix.ENOENT
		}
		return unix.ReadDirent(dir, buf)
	}
	defer func() { getdents = unix.ReadDirent }()
	if err := Tree(dir); !errors.Is(err, unix.ENOENT) || tried != 1 {
		t.Errorf("it was tried %d times; error %v", tried, err)
	}
}

// What is mounted in a tree is not removed, but what is beside it is.
func TestMountsStay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir := filepath.Join(t.TempDir(), "tree")
	at := filepath.Join(dir, "a", "b")
	check(t, os.MkdirAll(at, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "beside"), nil, 0o644))
	check(t, mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: at}))
	defer func() {
		check(t, mount.UnmountUnder(dir))
		check(t, Tree(dir))
		gone(t, dir)
	}()
	kept := filepath.Join(at, "kept")
	check(t, os.WriteFile(kept, nil, 0o644))
	if err := Tree(dir); !errors.Is(err, ErrMounted) {
		t.Errorf("error %v, want %v", err, ErrMounted)
	}
	gone(t, filepath.Join(dir, "beside"))
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}
