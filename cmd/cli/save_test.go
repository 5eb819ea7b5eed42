package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

// An image of the store goes through an archive to another host and keeps its digest; others' tools read it.
func TestSaveAndLoad(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "tag", "prog", "registry.example/prog:1.0")
	want := decoded[[]client.ImageInfo](h, "images")[0].Digest
	file := h.path("out.tar")
	h.gives(0, []string{"prog " + want, "registry.example/prog:1.0 " + want}, "save", "prog",
		"registry.example/prog:1.0", "-o", file)
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", fi, err)
	}
	// What is named twice is saved and listed once.
	if r := h.freejail("save", "prog", want, "prog", "-o", h.path("twice.tar")); r.code != 0 || r.out != "prog "+want+"\n" {
		t.Errorf("saved twice: %+v", r)
	}
	if r := h.freejail("save", "prog", "-o", h.path("no/out.tar")); r.code != app.Failed ||
		!strings.Contains(r.errout, h.path("no/out.tar")) || strings.Contains(r.errout, ".new-") {
		t.Errorf("saved nowhere: %+v", r)
	}
	piped := h.freejail("save", "prog")
	h.gives(0, nil, "images", "rm", "--all")
	h.gives(0, nil, "gc")
	h.gives(0, []string{"prog " + want, "registry.example/prog:1.0 " + want}, "load", "-i", file)
	h.gives(0, []string{"hello"}, "run", "--rm", "registry.example/prog:1.0", "say", "hello")
	h.gives(0, nil, "images", "import", "--name", "prog", h.image("prog", "ENV other=1\n"))
	other := decoded[client.ImageInfo](h, "images", "prog").Digest
	r := h.fed(piped.out, "load")
	if r.code != 0 || r.out != "prog "+want+"\n" || !strings.Contains(r.errout, "prog: it was "+other) {
		t.Errorf("loaded from standard input: %+v", r)
	}
	for _, c := range []struct {
		code int
		part string
		args []string
	}{{app.Failed, "not on this host", []string{"save", "none", "-o", h.path("none.tar")}},
		{app.Failed, "is a directory", []string{"save", "prog", "-o", h.dir}},
		{app.Usage, "is a path", []string{"save", "./prog"}},
		{app.Usage, "an OCI archive is written", []string{"save", "--format", "x", "prog"}},
		{app.Failed, "than its digest says", []string{"tag", "prog", "registry.example/prog@" + other}},
		{app.Failed, "than its digest says", []string{"images", "import", "--name", "registry.example/prog@" + other, file}},
		{app.Usage, "-i FILE", []string{"load", file}},
		{app.Failed, "not an archive of an image", []string{"load", "-i", h.path("freejail.hcl")}}} {
		h.gives(c.code, []string{c.part}, c.args...)
	}
	if left, err := filepath.Glob(h.dir + "/.new-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if _, err := os.Stat(h.path("none.tar")); err == nil {
		t.Error("a file of nothing was made")
	}
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not here: make interop")
	}
	for _, name := range []string{"prog", "registry.example/prog:1.0"} {
		out, err := exec.Command(skopeo, "inspect", "--format", "{{.Digest}}", "oci-archive:"+file+":"+name).CombinedOutput()
		if err != nil || string(bytes.TrimSpace(out)) != want {
			t.Errorf("skopeo: %s: %v %s", name, err, out)
		}
	}
}

// A save that is not whole leaves the file that was there, and nothing beside it.
func TestSaveOfADamagedImage(t *testing.T) {
	h := newHost(t, "")
	file := h.path("out.tar")
	check(t, os.WriteFile(file, []byte("before"), 0o600))
	blobs, err := filepath.Glob(h.path("state/images/blobs/sha256/*"))
	check(t, err)
	for _, b := range blobs {
		if fi, err := os.Stat(b); err == nil && fi.Size() > 1<<20 {
			check(t, os.Truncate(b, fi.Size()-1))
		}
	}
	h.gives(app.Failed, []string{"its descriptor says"}, "save", "prog", "-o", file)
	if h.read("out.tar") != "before" {
		t.Error("the file was replaced")
	}
	if left, err := filepath.Glob(h.dir + "/.new-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	r := h.freejail("save", "prog")
	if r.code != app.Failed || !strings.Contains(r.errout, "its descriptor says") {
		t.Errorf("to standard output: %d %s", r.code, r.errout)
	}
}
