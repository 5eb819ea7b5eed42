package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIdentifyFollowsNoLink(t *testing.T) {
	dir := realTemp(t)
	if err := os.MkdirAll(filepath.Join(dir, "real/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a, err := Identify(filepath.Join(dir, "real/sub"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := Identify(filepath.Join(dir, "real")); err != nil || a == b {
		t.Errorf("two directories are one: %+v %v", b, err)
	}
	if again, err := Identify(filepath.Join(dir, "real/sub")); err != nil || again != a {
		t.Errorf("one directory is two: %+v %+v %v", a, again, err)
	}
	for _, p := range []string{"link", "link/sub", "real/../real", "nothing"} {
		if _, err := Identify(dir + "/" + p); err == nil {
			t.Errorf("%s was taken", p)
		}
	}
	if _, err := Identify("/"); err != nil {
		t.Error(err)
	}
}

// What was decided about is what is mounted, whatever happens to the paths.
func TestDoSame(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []string{"source", "other", "target", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file, over := filepath.Join(dir, "file"), filepath.Join(dir, "over")
	for _, f := range []string{file, over} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	for from, to := range map[string]string{source: target, file: over} {
		id, err := Identify(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := DoSame(Mount{Type: "nullfs", Source: from, Target: to, Options: []string{"ro"}}, id); err != nil {
			t.Fatal(err)
		}
		if err := Unmount(to); err != nil {
			t.Fatal(err)
		}
	}
	id, err := Identify(source)
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(path, to string) {
		t.Helper()
		if err := os.Rename(path, path+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	exchange(source, "other")
	if err := DoSame(Mount{Type: "nullfs", Source: source, Target: target}, id); err == nil {
		t.Error("another source was mounted")
	}
	exchange(target, "elsewhere")
	if err := DoSame(Mount{Type: "nullfs", Source: source + ".old", Target: target}, id); err == nil {
		t.Error("it was mounted elsewhere")
	}
	if left, err := Below(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// realTemp is a directory whose path has no link.
func realTemp(t *testing.T) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
