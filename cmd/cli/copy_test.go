package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/cmd/internal/app"
)

func TestParseEnd(t *testing.T) {
	for text, want := range map[string]copyEnd{"web:/x": {"web", "/x"}, "web:": {"web", ""}, "./web:/x": {"", "./web:/x"},
		"/a:b": {"", "/a:b"}, "-": {"", "-"}, "file": {"", "file"}, ":/x": {"", ":/x"}, "web:a:b": {"web", "a:b"}} {
		if got := parseEnd(text); got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// cp both ways, between a running task and this host.
func TestCopy(t *testing.T) {
	h := newHost(t, "permit {\n  mounts = [\"nullfs:/:rw\"]\n}\n")
	volume := filepath.Join(t.TempDir(), "data")
	check(t, os.MkdirAll(filepath.Join(volume, "sub"), 0o755))
	h.gives(0, nil, "run", "-d", "--name", "one", "-v", volume+":/data", "-v", volume+":/fixed:ro", "prog", "wait")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	check(t, os.MkdirAll(at("d/sub"), 0o755))
	check(t, os.WriteFile(at("d/sub/f"), []byte("hello"), 0o640))
	check(t, os.Chmod(at("d/sub/f"), 0o640))
	check(t, unix.Chmod(at("d/sub"), 0o2750))
	h.gives(0, nil, "cp", at("d"), "one:/tmp-new")
	h.gives(0, nil, "cp", at("d/sub/f"), "one:/data/")
	h.gives(0, nil, "cp", "-a", at("d")+"/.", "one:data/sub")
	if b, err := os.ReadFile(filepath.Join(volume, "f")); err != nil || string(b) != "hello" {
		t.Errorf("in the volume: %q %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(volume, "sub/sub")); err != nil || fi.Mode()&os.ModeSetgid == 0 {
		t.Errorf("--archive: %v %v", fi, err)
	}
	h.gives(0, nil, "cp", "one:/tmp-new", at("back"))
	if b, err := os.ReadFile(at("back/sub/f")); err != nil || string(b) != "hello" {
		t.Errorf("back: %q %v", b, err)
	}
	if fi, err := os.Stat(at("back/sub")); err != nil || fi.Mode()&os.ModeSetgid != 0 || fi.Mode().Perm() != 0o750 {
		t.Errorf("without --archive: %v %v", fi, err)
	}
	out := h.gives(0, nil, "cp", "one:/tmp-new/sub/f", "-")
	r := tar.NewReader(strings.NewReader(out))
	hd, err := r.Next()
	check(t, err)
	if b, err := io.ReadAll(r); err != nil || hd.Name != "f" || string(b) != "hello" || hd.Uid != 0 {
		t.Errorf("as an archive: %+v %q %v", hd, b, err)
	}
	if r := h.fed(out, "cp", "-", "one:/data/sub"); r.code != 0 {
		t.Errorf("from an archive: %+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(volume, "sub/f")); err != nil || string(b) != "hello" {
		t.Errorf("from an archive: %q %v", b, err)
	}
	h.refusesCopies(at)
	h.gives(0, nil, "stop", "-t", "30", "one")
	h.gives(app.Failed, []string{"not running (exited)"}, "cp", "one:/tmp-new", at("again"))
	h.gives(0, nil, "rm", "one")
}

func (h *testHost) refusesCopies(at func(string) string) {
	h.gives(app.Usage, []string{"one end"}, "cp", "one:/x", "two:/y")
	h.gives(app.Usage, []string{"TASK:PATH"}, "cp", "/x", "/y")
	h.gives(app.Usage, []string{"TASK:PATH"}, "cp", "/x", "one:")
	h.gives(app.Failed, []string{"freejail: in task one: there is no /none\n"}, "cp", "one:/none", at("none"))
	h.gives(app.Failed, []string{"freejail: in task one: there is no /none/x\n"}, "cp", "one:/none/x", "-")
	h.gives(app.Failed, []string{"freejail: on this host: there is no " + at("none") + "\n"}, "cp", at("none"), "one:/")
	h.gives(app.Failed, []string{"freejail: on this host: there is no directory " + at("none") + ": make it"},
		"cp", "one:/tmp-new", at("none/x"))
	h.gives(app.Failed, []string{"freejail: in task one: there is no directory /none: make it"}, "cp", at("d"), "one:/none/x")
	h.gives(app.Failed, []string{"freejail: in task one: there is no directory /none: make it"}, "cp", at("d/sub/f"),
		"one:/none/")
	if r := h.freejail("cp", at("d/sub/f"), "one:/fixed/"); r.errout != "freejail: in task one: f: read-only file system\n" {
		h.t.Errorf("a volume to read: %+v", r)
	}
	h.gives(app.Failed, []string{"no such task"}, "cp", "none:/x", at("x"))
	h.gives(app.Failed, []string{"more than 4 bytes"}, "cp", "--max-size", "4", at("d"), "one:/tmp-new")
	h.gives(app.Failed, []string{"more than 4 bytes"}, "cp", "--max-size", "4", "one:/tmp-new", at("y"))
	h.gives(app.Failed, []string{"it is a device"}, "cp", "one:/dev/null", at("null"))
	if r := h.fed("no archive at all", "cp", "-", "one:/"); r.code != app.Failed || !strings.Contains(r.errout, "archive") {
		h.t.Errorf("no archive: %+v", r)
	}
	if r := h.freejail("cp", "one:/dev", at("dev")); r.code != app.Failed || !strings.Contains(r.errout, "left out: it is") {
		h.t.Errorf("devices: %+v", r)
	}
	check(h.t, unix.Mkfifo(at("d/fifo"), 0o600))
	if r := h.freejail("cp", at("d"), "one:/other"); r.code != app.Failed || !bytes.Contains([]byte(r.errout),
		[]byte("d/fifo: left out: it is a FIFO")) {
		h.t.Errorf("a FIFO: %+v", r)
	}
}
