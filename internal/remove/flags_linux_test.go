package remove

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// freeze sets a flag on a file or directory, where the file system has any.
func freeze(t *testing.T, path string, flag uint32) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	old, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = setFlags(int(f.Fd()), old|flag)
	}
	check(t, f.Close())
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		t.Skip("the file system has no flags, or they are not ours to set: ", err)
	}
	check(t, err)
}

// Neither a file's nor a directory's flags keep a tree from being removed, and
// another name of a file keeps them.
func TestFlagsDoNotKeepATree(t *testing.T) {
	const immutable, appendOnly = 0x10, 0x20
	dir := t.TempDir()
	tree, other := filepath.Join(dir, "tree"), filepath.Join(dir, "other")
	check(t, os.MkdirAll(filepath.Join(tree, "a/b/c"), 0o755))
	check(t, os.WriteFile(other, nil, 0o644))
	check(t, os.Link(other, filepath.Join(tree, "a/linked")))
	check(t, unix.Mkfifo(filepath.Join(tree, "a/b/fifo"), 0o644))
	check(t, os.Symlink("/etc/passwd", filepath.Join(tree, "a/b/link")))
	check(t, os.WriteFile(filepath.Join(tree, "a/b/f"), nil, 0o644))
	defer func() { check(t, Tree(other)) }()
	for path, flag := range map[string]uint32{"a/b/f": immutable, "a/linked": appendOnly} {
		freeze(t, filepath.Join(tree, path), flag)
	}
	for _, path := range []string{"a/b/c", "a/b", "a", "."} {
		freeze(t, filepath.Join(tree, path), immutable|appendOnly)
	}
	check(t, Tree(tree))
	gone(t, tree)
	f, err := os.Open(other)
	check(t, err)
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if check(t, errors.Join(err, f.Close())); flags&forbidding != appendOnly {
		t.Errorf("the other name's flags are %#x", flags)
	}
}
