package buildjail_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image/build"
)

// What --mount shows is there while its command runs, and is in no layer. What a
// cache keeps is there for the next build, whatever the layers are.
func TestMounts(t *testing.T) {
	f := setup(t, build.NetworkHost)
	f.options.Cache = t.TempDir()
	if err := os.MkdirAll(filepath.Join(f.dir, "in/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "in/sub/f"), []byte("of the context"), 0o644); err != nil {
		t.Fatal(err)
	}
	const cached = `RUN --mount=type=cache,id=c,target=/var/c `
	img, err := f.build(
		`RUN --mount=type=bind,source=in,target=/in ["/bin/prog", "cat", "/in/sub/f", "write", "/got", "x"]`,
		`RUN --mount=source=in/sub/f,target=/one ["/bin/prog", "cat", "/one"]`,
		`RUN --mount=source=in,target=/in,rw ["/bin/prog", "write", "/in/sub/f", "changed", "cat", "/in/sub/f"]`,
		cached+`--mount=type=tmpfs,target=/var,size=1m ["/bin/prog", "write", "/var/c/f", "kept", "write", "/var/g", "y"]`,
		cached+`["/bin/prog", "cat", "/var/c/f"]`,
		"FROM scratch AS two", "COPY prog sh /bin/", `RUN --mount=from=0,target=/other ["/bin/prog", "cat", "/other/got"]`,
		`RUN ["/bin/prog", "ls", "/"]`)
	if err != nil {
		t.Fatal(err, f.log.String())
	}
	if got, want := f.log.String(), "of the context\nof the context\nchanged\nkept\nx\nbin dev proc \n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if len(img.Layers) != 1 {
		t.Errorf("%d layers", len(img.Layers))
	}
	if b, err := os.ReadFile(filepath.Join(f.dir, "in/sub/f")); err != nil || string(b) != "of the context" {
		t.Errorf("the context was changed: %q %v", b, err)
	}
	// Another content is another step; a cache is none.
	f.log.Reset()
	if err := os.WriteFile(filepath.Join(f.dir, "in/sub/f"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = f.build(`RUN --mount=source=in,target=/in ["/bin/prog", "cat", "/in/sub/f"]`,
		cached+`["/bin/prog", "cat", "/var/c/f", "write", "/z", ""]`); err != nil || f.log.String() != "new\nkept\n" {
		t.Errorf("%v %q", err, f.log.String())
	}
	for line, want := range map[string]string{
		`RUN --mount=source=in,target=/in ["/bin/prog", "write", "/in/x", ""]`: "ead-only",
		`RUN --mount=target=/x,source=out x`:                                   "leads out of the context",
		`RUN --mount=target=/bin/prog ["/bin/prog", "say"]`:                    "/bin/prog",
	} {
		f.log.Reset()
		if err := os.Symlink("/etc", filepath.Join(f.dir, "out")); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		_, err := f.build(line)
		if err == nil || want != "" && !strings.Contains(err.Error()+f.log.String(), want) {
			t.Errorf("%s: %v %q, want %q", line, err, f.log.String(), want)
		}
	}
	if _, err := build.Prune(t.Context(), f.options.Cache, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(f.options.Cache, "mounts")); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
}

// A mount finds its place within the root, wherever the image's links lead.
func TestMountsStayInTheRoot(t *testing.T) {
	f := setup(t, build.NetworkHost)
	victim := t.TempDir()
	_, err := f.build(`RUN ["/bin/prog", "symlink", "`+victim+`", "/link"]`,
		`RUN --mount=type=tmpfs,target=/link/sub ["/bin/prog", "write", "/link/sub/f", "x"]`)
	t.Log(err)
	if left, rerr := os.ReadDir(victim); rerr != nil || len(left) != 0 {
		t.Errorf("the host's directory has %v: %v", left, rerr)
	}
}
