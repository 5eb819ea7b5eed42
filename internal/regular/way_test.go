package regular

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The way is the real one, whatever links lead there, and nothing leads out of the root or is waited for.
func TestOpenWay(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("in/a/b"), 0o755))
	must(t, os.Chmod(at("in"), 0o755))
	must(t, os.Chmod(at("in/a"), 0o711))
	must(t, os.Chmod(at("in/a/b"), 0o701))
	for name, text := range map[string]string{"in/a/b/f": "f", "in/top": "top", "out": "secret"} {
		must(t, os.WriteFile(at(name), []byte(text), 0o600))
	}
	for name, to := range map[string]string{"l": "a/b/f", "d": "a/./b", "a/b/up": "../../top", "out": "../out",
		"abs": at("in/top"), "loop": "loop",
		"around": "a/../../in/top", "maze": "maze9", "maze0": "top"} {
		must(t, os.Symlink(to, at("in/"+name)))
	}
	for i := 1; i < 10; i++ {
		// FreeBSD takes 1023 bytes
		must(t, os.Symlink(strings.Repeat("a/../", 190)+fmt.Sprint("maze", i-1), at(fmt.Sprint("in/maze", i))))
	}
	must(t, unix.Mkfifo(at("in/fifo"), 0o600))
	must(t, os.Symlink("fifo", at("in/tofifo")))
	t.Chdir(dir) // a socket's path may be too long
	l, err := net.Listen("unix", "in/socket")
	must(t, err)
	defer l.Close()
	root, err := Root(at("in"))
	must(t, err)
	defer root.Close()
	for name, want := range map[string]struct{ text, way string }{"a/b/f": {"f", "755 711 701"},
		"./a//b/../b/f": {"f", "755 711 701"},
		"l":             {"f", "755 711 701"}, "d/f": {"f", "755 711 701"}, "d/up": {"top", "755"},
		"top": {"top", "755"}} {
		f, fi, way, err := OpenWay(root, name)
		must(t, err)
		text, err := io.ReadAll(f)
		must(t, err)
		must(t, f.Close())
		var modes []string
		for _, d := range way {
			modes = append(modes, fmt.Sprintf("%o", d.Mode().Perm()))
		}
		if string(text) != want.text || fi.Size() != int64(len(text)) || strings.Join(modes, " ") != want.way {
			t.Errorf("%s: %q by %v, want %v", name, text, modes, want)
		}
	}
	for name, want := range map[string]string{"out": "escapes", "abs": "escapes", "..": "escapes", "../out": "escapes",
		"around": "escapes",
		"loop":   "too many", "maze": "too many", "none": "no such file", "none/f": "no such file",
		"top/f": "not a directory", "fifo": "it is a FIFO",
		"tofifo": "it is a FIFO", "socket": "it is a socket", ".": "it is a directory", "a/b": "it is a directory",
		"d": "it is a directory"} {
		if f, _, _, err := OpenWay(root, name); err == nil || f != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
