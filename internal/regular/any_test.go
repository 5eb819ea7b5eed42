package regular

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Nothing that can lie in a directory makes the caller wait.
func TestNothingIsWaitedFor(t *testing.T) {
	dir, err := os.MkdirTemp("", "so") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := Root(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(syscall.Mkfifo(at("fifo"), 0o600), os.Symlink("fifo", at("link")),
		os.WriteFile(at("file"), []byte("x"), 0o600),
		os.Mkdir(at("dir"), 0o700), os.Symlink("/etc/passwd", at("out"))); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, want := range map[string]string{"fifo": "it is a FIFO", "link": "it is a FIFO", "sock": "it is a socket",
		"file": "ok", "dir": "ok", "none": "no such file"} {
		f, _, err1 := OpenAny(at(name))
		g, _, err2 := OpenIn(root, name)
		for i, err := range []error{err1, err2} {
			want := want
			if i == 1 && name == "dir" {
				want = "is a directory"
			}
			if want == "ok" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		for _, f := range []*os.File{f, g} {
			f.Close() // nil where it was refused
		}
		r, err := Root(at(name))
		if (name == "dir") != (err == nil) {
			t.Errorf("%s as a directory: %v", name, err)
		}
		if err == nil {
			r.Close()
		}
	}
	if f, _, err := OpenAny(os.DevNull); err == nil || !strings.Contains(err.Error(), "a device") {
		t.Errorf("a device: %v %v", f, err)
	}
	if _, _, err := OpenIn(root, "out"); err == nil {
		t.Error("a link led out of the directory")
	}
	if _, err := Root(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no path: %v", err)
	}
}
