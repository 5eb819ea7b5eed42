package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

var longAgo = unix.Timespec{Sec: 981173106}

// fillAll makes a tree with all that an image can have.
func fillAll(t *testing.T, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	do(os.MkdirAll(at("data/deep/er"), 0o755))
	do(os.MkdirAll(at("etc"), 0o755))
	for _, base := range []string{"data", "etc"} {
		do(os.WriteFile(at(base+"/plain"), []byte("image"), 0o644))
		do(os.WriteFile(at(base+"/own"), []byte("own"), 0o600))
		do(os.Lchown(at(base+"/own"), 1001, 1002))
		do(unix.Chmod(at(base+"/own"), 0o6751))
		do(os.Symlink("/nowhere", at(base+"/link")))
		do(os.Lchown(at(base+"/link"), 1003, 1004))
		do(os.Link(at(base+"/own"), at(base+"/same")))
	}
	do(os.WriteFile(at("data/deep/er/file"), []byte("deep"), 0o640))
	do(os.WriteFile(at("data/frozen"), []byte("frozen"), 0o444))
	do(os.Lchown(at("data/deep"), 1001, 1001))
	do(unix.Chmod(at("data/deep"), 0o1777))
	do(os.Mkdir(at("mnt"), 0o755))
	for _, name := range []string{"data/plain", "data/own", "data/link", "data/frozen", "data/deep/er/file",
		"data/deep/er", "data/deep",
		"etc/plain", "etc/own", "etc/link", "data", "etc"} {
		do(unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{longAgo, longAgo}, unix.AT_SYMLINK_NOFOLLOW))
	}
	do(freeze(at("data/frozen")))
}

// compare tells where a root is another tree than the image.
func compare(t *testing.T, image, root string) {
	t.Helper()
	for _, name := range []string{"data", "data/plain", "data/own", "data/same", "data/link", "data/deep",
		"data/deep/er", "data/deep/er/file", "data/frozen",
		"etc", "etc/plain", "etc/own", "etc/link"} {
		var want, got unix.Stat_t
		err := unix.Lstat(filepath.Join(image, name), &want)
		if err = errors.Join(err, unix.Lstat(filepath.Join(root, name), &got)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want.Mode != got.Mode || want.Uid != got.Uid || want.Gid != got.Gid || want.Mtim != got.Mtim ||
			flagsOf(&want) != flagsOf(&got) {
			t.Errorf("%s: mode %o, owner %d:%d, mtime %v, flags %x; want %o, %d:%d, %v, %x", name,
				got.Mode, got.Uid, got.Gid, got.Mtim, flagsOf(&got), want.Mode, want.Uid, want.Gid, want.Mtim,
				flagsOf(&want))
		}
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Lstat(root+"/data/own", &a), unix.Lstat(root+"/data/same", &b)); err != nil ||
		a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("the hard link: %d %d %d %v", a.Ino, b.Ino, a.Nlink, err)
	}
}

func TestWhatAnImageHasSurvives(t *testing.T) { eachDriver(t, survive) }

func survive(t *testing.T, d Driver) {
	ctx := t.Context()
	image := t.TempDir()
	fillAll(t, image)
	t.Cleanup(func() {
		if err := thaw(image + "/data/frozen"); err != nil {
			t.Error(err)
		}
	})
	if err := ensure(ctx, d, "c", func(dir string) error { fillAll(t, dir); return nil }); err != nil {
		t.Fatal(err)
	}
	opts := Options{Writable: []string{"/data", "data/deep/", "/new"}, Dirs: []string{"/dev", "/alloc"},
		Files: []string{"/mnt/mounted"}}
	var roots []string
	for _, task := range []string{"one", "two"} {
		root, err := d.Create(ctx, "c", task, opts)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
		compare(t, image, root)
	}
	// Each sees its own writes alone, and what is frozen stays so.
	for i, root := range roots {
		if _, err := os.Stat(root + "/data/written"); err == nil {
			t.Error("one task sees what the other wrote")
		}
		err := os.WriteFile(root+"/data/written", []byte{byte(i)}, 0o600)
		err = errors.Join(err, os.WriteFile(root+"/data/plain", []byte{byte(i)}, 0o600),
			os.Remove(root+"/data/deep/er/file"),
			os.Rename(root+"/data/own", root+"/data/moved"), os.Chmod(root+"/data/deep", 0o700))
		if err != nil {
			t.Error(err)
		}
		// unionfs makes its copy of a file without the file's flags.
		if hasFlags && d.Name() != "union" && d.Name() != "nfs" &&
			os.WriteFile(root+"/data/frozen", nil, 0o600) == nil {
			t.Error("an immutable file was written to")
		}
	}
	for i, root := range roots {
		if b, err := os.ReadFile(root + "/data/plain"); err != nil || len(b) != 1 || b[0] != byte(i) {
			t.Errorf("task %d reads %q, %v", i, b, err)
		}
	}
	if d.Name() == "readonly" {
		readOnlyElsewhere(t, roots[0])
	}
	for _, task := range []string{"one", "two"} {
		if err := d.Remove(ctx, task); err != nil {
			t.Fatal(err)
		}
	}
	root, err := d.Create(ctx, "c", "one", opts)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, image, root)
	if err := errors.Join(d.Remove(ctx, "one"), d.RemoveChain(ctx, "c")); err != nil {
		t.Error(err)
	}
}

// readOnlyElsewhere looks for the mount points that were asked for.
func readOnlyElsewhere(t *testing.T, root string) {
	t.Helper()
	if err := os.WriteFile(root+"/etc/plain", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("what is not writable was written to: %v", err)
	}
	for _, p := range []string{"/dev", "/alloc", "/mnt/mounted"} {
		if _, err := os.Stat(root + p); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(root+"/new/file", nil, 0o600); err != nil {
		t.Error(err)
	}
}

// Drivers that share a directory share its chains.
func TestTwoDriversOneDirectory(t *testing.T) {
	a := openFor(t, "readonly")
	b, err := Open(map[string]string{"linux": "overlay", "freebsd": "union"}[runtime.GOOS], a.(readonly).base, Config{})
	if err != nil {
		t.Skip(err)
	}
	ctx := t.Context()
	if err := ensure(ctx, a, "c", fill); err != nil {
		t.Fatal(err)
	}
	if err := ensure(ctx, b, "c", func(string) error { return errors.New("unpacked twice") }); err != nil {
		t.Error(err)
	}
	if _, err := b.Create(ctx, "c", "one", Options{}); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveChain(ctx, "c"); err == nil {
		t.Error("a chain in use by the other driver was removed")
	}
	if err := errors.Join(b.Remove(ctx, "one"), a.RemoveChain(ctx, "c")); err != nil {
		t.Error(err)
	}
}

// Mount points that an image lacks are the task's: neither the image nor its
// other tasks have them.
func TestMountPointsAreTheTasksOwn(t *testing.T) { eachDriver(t, ownPoints) }

func ownPoints(t *testing.T, d Driver) {
	ctx := t.Context()
	image := t.TempDir()
	fillAll(t, image)
	t.Cleanup(func() {
		if err := thaw(image + "/data/frozen"); err != nil {
			t.Error(err)
		}
	})
	if err := ensure(ctx, d, "c", func(dir string) error { fillAll(t, dir); return nil }); err != nil {
		t.Fatal(err)
	}
	one, err := d.Create(ctx, "c", "one", Options{Writable: []string{"/data", "/made/here"},
		Dirs: []string{"/alloc", "/etc/deep/er", "/data/in"}, Files: []string{"/etc/conf/file"}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := d.Create(ctx, "c", "two", Options{Writable: []string{"/data"}, Dirs: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, image, one)
	compare(t, image, two)
	for _, p := range []string{"/alloc", "/etc/deep", "/etc/conf", "/data/in", "/made"} {
		if d.Name() == "readonly" && p != "/data/in" {
			if _, err := os.Stat(one + p); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(two + p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another task of the image sees %s: %v", p, err)
		}
	}
	for _, p := range []string{"/etc/plain", "/alloc/x", "/etc/deep/er/x"} {
		if err := os.WriteFile(one+p, nil, 0o600); d.Name() == "readonly" && !errors.Is(err, unix.EROFS) {
			t.Errorf("%s, which is not writable, was written to: %v", p, err)
		}
	}
	if err := os.WriteFile(one+"/data/written", nil, 0o600); err != nil {
		t.Error(err)
	}
	if err := errors.Join(d.Remove(ctx, "one"), d.Remove(ctx, "two"), d.RemoveChain(ctx, "c")); err != nil {
		t.Error(err)
	}
}

// What a server offers as a root may become a link to anywhere at any time, and
// so may the directories in it.
func TestServersLinksAreNotFollowed(t *testing.T) {
	d := openFor(t, "nfs")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"host", "served/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(os.WriteFile(dir+"/host/secret", []byte("sesame"), 0o644), os.Symlink(dir+"/host", dir+"/root"),
		os.Symlink(dir+"/host", dir+"/served/var"))
	if err != nil {
		t.Fatal(err)
	}
	for name, lower := range map[string]string{"the root": dir + "/root", "a writable directory": dir + "/served"} {
		if root, err := d.Create(t.Context(), "", "one", Options{Lower: lower}); err == nil {
			_, seen := os.Stat(root + "/secret")
			_, copied := os.Stat(root + "/var/secret")
			t.Errorf("%s was a link, and followed: %v %v", name, seen, copied)
			if err := d.Remove(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left, err := d.Tasks(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
