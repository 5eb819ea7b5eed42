package regular

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("text"), 0o600))
	must(t, os.Mkdir(at("in"), 0o755))
	must(t, os.Symlink("../file", at("in/out")))
	must(t, os.Symlink("file", at("in/loop")))
	must(t, os.Symlink("loop", at("in/file")))
	must(t, unix.Mkfifo(at("in/fifo"), 0o600))
	l, err := net.Listen("unix", at("in/socket"))
	must(t, err)
	defer l.Close()
	root, err := os.OpenRoot(at("in"))
	must(t, err)
	defer root.Close()
	for name, want := range map[string]string{"out": "escapes", "loop": "too many", "none": "no such file",
		"fifo": "it is a FIFO", "socket": "it is a socket", ".": "it is a directory"} {
		if _, _, err := OpenIn(root, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for name, want := range map[string]string{at("in/fifo"): "it is a FIFO", os.DevNull: "it is a device",
		dir: "it is a directory"} {
		if _, _, err := Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	f, fi, err := Open(at("in/out")) // the caller means the path
	must(t, err)
	defer f.Close()
	if b, err := Read(f, "f", 4); err != nil || string(b) != "text" || fi.Size() != 4 {
		t.Errorf("%q %v", b, err)
	}
	all, err := os.OpenRoot(dir)
	must(t, err)
	defer all.Close()
	if _, err := ReadIn(all, "file", 3); err == nil || !strings.Contains(err.Error(), "more than 3 bytes") {
		t.Error(err)
	}
}

// What takes a file's place between the look at it and its opening does not make
// anybody wait.
func TestOpenOfWhatWasExchanged(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	seen := func(string) (os.FileInfo, error) { return os.Stat(os.Args[0]) }
	if _, _, err := open(fifo, false, seen, os.OpenFile); err == nil || !strings.Contains(err.Error(), "it is a FIFO") {
		t.Error(err)
	}
}
