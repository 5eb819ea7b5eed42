package remove

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

const immutable = 0x2 // UF_IMMUTABLE

// freeze sets a flag on a name, be it a link's.
func freeze(t *testing.T, dir int, name string, flags uint32) {
	t.Helper()
	fd, err := unix.Openat(dir, name, oPath|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	check(t, err)
	check(t, setFlags(fd, flags))
	check(t, unix.Close(fd))
}

// Neither a file's flags nor those of links, FIFOs and directories keep a tree
// from being removed, at any depth.
func TestFlagsDoNotKeepATree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	dig(t, dir, strings.Repeat("n", 200), 70, func(fd, level int) {
		touch(t, fd, "f")
		check(t, unix.Symlinkat("nowhere", fd, "l"))
		check(t, unix.Mknodat(fd, "p", unix.S_IFIFO|0o600, 0))
		check(t, unix.Mkdirat(fd, "d", 0o700))
		for i, name := range []string{"f", "l", "p", "d"} {
			freeze(t, fd, name, []uint32{immutable, 0x10, 0x20000, 0x4}[(i+level)%4])
		}
		if level > 0 && level%10 == 0 {
			check(t, thawDir(fd))
		}
	})
	dig(t, dir, "d", 100, func(fd, level int) {
		if level > 60 {
			touch(t, fd, "f")
		}
	})
	at := dir // all directories, from the top
	for range 100 {
		at += "/d"
	}
	for ; at != filepath.Dir(dir); at = filepath.Dir(at) {
		check(t, unix.Chflags(at, immutable))
	}
	fewDescriptors(t)
	check(t, Tree(dir))
	gone(t, dir)
}

// So with sockets, directories that nobody may enter or that are opaque, and names
// of any bytes.
func TestOddEntriesDoNotKeepATree(t *testing.T) {
	const opaque = 0x8
	dir, err := os.MkdirTemp("", "odd")
	check(t, err)
	tree := filepath.Join(dir, "tree")
	for _, name := range []string{"d", "\xff\n\x01", "-rf", "deep-1"} {
		at := filepath.Join(tree, name)
		check(t, os.MkdirAll(at, 0o755))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(at, "s")})
		check(t, err)
		l.SetUnlinkOnClose(false)
		check(t, l.Close())
		fd, err := unix.Open(at, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		check(t, err)
		freeze(t, fd, "s", immutable)
		check(t, unix.Close(fd))
		check(t, os.Chmod(at, 0))
		check(t, unix.Chflags(at, opaque|immutable))
	}
	check(t, unix.Chflags(tree, 0x4))
	check(t, Tree(dir))
	gone(t, dir)
}

// Another name of a file is not in the tree: it keeps its flags.
func TestFlagsOfOtherNames(t *testing.T) {
	dir := t.TempDir()
	tree, other := filepath.Join(dir, "tree"), filepath.Join(dir, "other")
	check(t, os.Mkdir(tree, 0o755))
	check(t, os.WriteFile(other, nil, 0o644))
	check(t, os.Link(other, filepath.Join(tree, "f")))
	check(t, unix.Chflags(other, immutable))
	defer func() { check(t, Tree(other)) }()
	check(t, Tree(tree))
	gone(t, tree)
	var st unix.Stat_t
	if check(t, unix.Stat(other, &st)); st.Flags != immutable {
		t.Errorf("the other name's flags are %#x, want %#x", st.Flags, immutable)
	}
}

// What a union hid is taken out of its upper directory, also where paths to it
// are too long.
func TestWhiteouts(t *testing.T) {
	dir := t.TempDir()
	lower, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	check(t, os.Mkdir(upper, 0o755))
	long := strings.Repeat("n", 200)
	dig(t, lower, long, 10, func(fd, _ int) { touch(t, fd, "f") })
	check(t, mount.Do(mount.Mount{Type: "unionfs", Source: upper, Target: lower}))
	defer func() { check(t, mount.UnmountUnder(dir)) }()
	at, err := unix.Open(lower, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(t, err)
	for range 10 {
		next, err := unix.Openat(at, long, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		check(t, err)
		check(t, unix.Close(at))
		at = next
		check(t, unix.Unlinkat(at, "f", 0))
	}
	check(t, unix.Close(at))
	check(t, mount.UnmountUnder(dir))
	check(t, Tree(upper))
	gone(t, upper)
}
