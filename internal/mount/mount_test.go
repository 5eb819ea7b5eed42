package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResolve(t *testing.T) {
	host := t.TempDir()
	root := filepath.Join(host, "root")
	for _, d := range []string{"etc", "var/real", "usr/home"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"dev": "/etc", "up": "../..", "deep": "var/../../../etc", "home": "usr/home", "loop": "loop", "self": ".",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"/etc": "etc", "/var/real/": "var/real", "/home/x": "usr/home/x", "/new/dir": "new/dir", "../../etc": "etc",
		"/dev": "", "/dev/x": "", "/up": "", "/up/x": "", "/deep": "", "/loop": "", "/self": "", "/": "", "/file": "", "/file/x": "",
	} {
		got, err := Resolve(root, target)
		if want == "" && err == nil {
			t.Errorf("%s: got %s, want it refused", target, got)
		}
		if want != "" && (err != nil || got != filepath.Join(root, want)) {
			t.Errorf("%s: got %s, %v; want %s", target, got, err, want)
		}
	}
	if f, err := ResolveFile(root, "/etc/resolv.conf"); err != nil || f != filepath.Join(root, "etc/resolv.conf") {
		t.Errorf("file: %s, %v", f, err)
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 1 {
		t.Errorf("something was made outside the root: %v %v", entries, err)
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
	if err := Do(Mount{Type: "tmpfs", Source: "tmpfs", Target: src, Options: []string{"size=1048576", "mode=700"}}); err != nil {
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
	for _, m := range []Mount{{Type: "nullfs", Source: src, Target: dst}, {Type: "nullfs", Source: src + "/logs", Target: dst + "/logs", Options: []string{"ro"}}} {
		if err := Do(m); err != nil {
			t.Fatal(err)
		}
	}
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
	if !Known("tmpfs") {
		t.Error("tmpfs is not known")
	}
	if Known("no-such-fs") {
		t.Error("no-such-fs is known")
	}
}
