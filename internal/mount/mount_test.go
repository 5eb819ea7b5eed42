package mount

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// realTemp is a directory whose path has no link.
func realTemp(t *testing.T) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// place opens a path for the time of a test.
func place(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// mountIn mounts on a directory or file of a root, with descriptors named in dir.
func mountIn(t *testing.T, dir, root, target string, m Mount) {
	t.Helper()
	by, err := OpenDescriptors(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	open := r.Dir
	if fi, err := os.Stat(filepath.Join(root, target)); err == nil && !fi.IsDir() {
		open = r.File
	}
	p, err := open(target)
	if err == nil {
		err = by.On(p, m)
	}
	if err := errors.Join(err, by.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDir(t *testing.T) {
	host := t.TempDir()
	root := filepath.Join(host, "root")
	for _, d := range []string{"etc", "var/real", "usr/home"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"dev": "/etc", "up": "../..", "deep": "var/../../../etc", "home": "usr/home", "loop": "loop", "self": ".",
		"long": strings.Repeat("self/", 200),
		"l1":   "l2/l2/l2/l2/l2/l2", "l2": "l3/l3/l3/l3/l3/l3", "l3": "var/real/../../var/real/../..",
		"back": "var/real/../..", "in": "usr/../var/real",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for target, want := range map[string]string{
		"/etc": "etc", "/var/real/": "var/real", "/home/x": "usr/home/x", "/new/dir": "new/dir", "../../etc": "etc",
		"/in": "var/real", "/in/y": "var/real/y",
		"/dev": "", "/dev/x": "", "/up": "", "/up/x": "", "/deep": "", "/loop": "", "/self": "", "/": "", "/file": "",
		"/file/x": "", "/fifo": "", "/fifo/x": "",
		"/long/etc": "", "/l1/etc": "", strings.Repeat("/d", 250) + "/e": "d" + strings.Repeat("/d", 249) + "/e",
		strings.Repeat("/d", 300): "", "/back": "", "/back/etc": "etc",
	} {
		p, err := r.Dir(target)
		if want == "" && err == nil {
			t.Errorf("%s: got %s, want it refused", target, p.Path())
		}
		if want != "" && (err != nil || p.Path() != filepath.Join(root, want) ||
			!sameFile(t, p, filepath.Join(root, want))) {
			t.Errorf("%s: got %v, %v; want %s", target, p, err, want)
		}
		if err == nil {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if f, err := r.File("/etc/resolv.conf"); err != nil || !sameFile(t, f, filepath.Join(root, "etc/resolv.conf")) {
		t.Errorf("file: %v, %v", f, err)
	}
	for _, target := range []string{"/etc", "/fifo", "/dev", "/dev/x", "/up/x"} {
		if _, err := r.File(target); err == nil {
			t.Errorf("%s was taken for a file", target)
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 1 {
		t.Errorf("something was made outside the root: %v %v", entries, err)
	}
}

func sameFile(t *testing.T, p *Point, path string) bool {
	t.Helper()
	a, err1 := p.File().Stat()
	b, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil {
		t.Error(err1, err2)
		return false
	}
	return os.SameFile(a, b)
}

func TestOpenPathFollowsNoLink(t *testing.T) {
	dir := realTemp(t)
	if err := os.MkdirAll(filepath.Join(dir, "real/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir + "/real/sub", dir + "/fifo", "/"} { // nothing blocks
		f, err := OpenPath(p)
		if err != nil {
			t.Fatal(err)
		}
		a, err1 := f.Stat()
		b, err2 := os.Lstat(p)
		if err := errors.Join(err1, err2, f.Close()); err != nil || !os.SameFile(a, b) {
			t.Errorf("%s: another one was opened: %v", p, err)
		}
	}
	for _, p := range []string{"link", "link/sub", "real/../real", "nothing"} {
		if _, err := OpenPath(dir + "/" + p); err == nil {
			t.Errorf("%s was taken", p)
		}
	}
}

func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for _, d := range []string{src, dst} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(src, "a"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Do(Mount{Type: "nullfs", Source: src, Target: dst, Options: []string{"ro"}}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dst, "a")); err != nil || string(b) != "a" {
		t.Errorf("nullfs shows %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dst, "b"), nil, 0o644); err == nil {
		t.Error("a read-only mount was written to")
	}
	if err := Do(Mount{Type: "tmpfs", Source: "tmpfs", Target: src,
		Options: []string{"size=1048576", "mode=700"}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "big"), make([]byte, 2<<20), 0o644); err == nil {
		t.Error("tmpfs took more than its size")
	}
	if list, err := Below(dir); err != nil || len(list) != 2 || list[0].Target != src {
		t.Errorf("below: %v %v", list, err)
	}
	if err := UnmountBelow(dir); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(src); err != nil {
		t.Errorf("nothing mounted is an error: %v", err)
	}
	if list, err := Below(dir); err != nil || len(list) != 0 {
		t.Errorf("left: %v %v", list, err)
	}
}

func TestReadOnlyWithinWritable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for _, d := range []string{filepath.Join(src, "logs"), dst} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(src, "logs", "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Do(Mount{Type: "nullfs", Source: src, Target: dst}); err != nil {
		t.Fatal(err)
	}
	mountIn(t, dir, dst, "logs", Mount{Type: "nullfs", From: place(t, src+"/logs"), Options: []string{"ro"}})
	if _, err := os.Stat(dst + "/logs/a"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dst+"/logs/b", nil, 0o644); err == nil {
		t.Error("what is read-only was written to")
	}
	if err := os.WriteFile(dst+"/b", nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := UnmountBelow(dst); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dst+"/logs/b", nil, 0o644); err != nil {
		t.Error(err)
	}
}

func TestKnown(t *testing.T) {
	if built := map[string]string{"freebsd": "devfs", "linux": "proc"}[runtime.GOOS]; !Known(built) {
		t.Errorf("%s is not known", built)
	}
	if Known("no-such-fs") {
		t.Error("no-such-fs is known")
	}
}

func TestDeepest(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"to": "a/b", "dangling": "a/new/x", "up": "a/none/../..", "out": "/etc",
		"maze": strings.Repeat("a/../", 120)} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	dir := place(t, root)
	for name, want := range map[string][2]string{
		"/a/b": {"a/b", ""}, "/a/c/d": {"a", "c/d"}, "/to/x/y": {"a/b", "x/y"}, "/dangling/y": {"a", "new/x/y"},
		"/x": {"", "x"}, "/": {"", ""},
	} {
		if have, lacks, err := Deepest(dir, name); err != nil || have != want[0] || lacks != want[1] {
			t.Errorf("%s: %q and %q, %v; want %q", name, have, lacks, err, want)
		}
	}
	for _, name := range []string{"/up", "/out/x", "/maze/maze/maze/x"} {
		if have, lacks, err := Deepest(dir, name); err == nil {
			t.Errorf("%s: %q and %q", name, have, lacks)
		}
	}
}

// Whoever was given something open of a root does not keep it when nobody runs
// there any more.
func TestReleaseOfWhatOthersHold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	for _, d := range []string{"src/in", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := ForceUnder(dir); err != nil {
			t.Error(err)
		}
	})
	if err := Do(Mount{Type: "nullfs", Source: dir + "/src", Target: dir + "/root"}); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(dir + "/root/in")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := ReleaseUnder(dir + "/root"); err != nil {
		t.Error(err)
	}
	if left, err := Below(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
