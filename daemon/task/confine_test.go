package task

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestConfined(t *testing.T) {
	base := t.TempDir() // of an orchestrator, with a directory that is none of the task's business
	shared, own, outside := filepath.Join(base, "a", "alloc"), filepath.Join(base, "a", "web"),
		filepath.Join(base, "outside")
	for _, dir := range []string{filepath.Join(shared, "logs"), filepath.Join(own, "local"),
		filepath.Join(own, "secrets"), outside} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"local/out": outside, "local/up": "../../..", "local/other": filepath.Join(shared, "logs"),
		"local/in": "../secrets", "local/loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(own, link)); err != nil {
			t.Fatal(err)
		}
	}
	host := filepath.Join(filepath.Dir(outside), "host") // the operator's own link
	if err := os.Symlink(outside, host); err != nil {
		t.Fatal(err)
	}
	spec := client.TaskSpec{Confined: []string{shared, own}}
	real, err := filepath.EvalSymlinks(filepath.Dir(outside))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		own + "/local": "a/web/local", own + "/local/in": "a/web/secrets", own: "a/web", host: "outside",
		own + "/local/out": "", own + "/local/up/outside": "", own + "/local/other": "", own + "/local/loop": "", own +
			"/nothing": "",
		own + "/local/../../../outside": "outside", "relative": "",
	} {
		f, got, err := Confined(spec, path)
		if err == nil {
			opened, err1 := f.Stat()
			named, err2 := os.Stat(got)
			if err := errors.Join(err1, err2, f.Close()); err != nil || !os.SameFile(opened, named) {
				t.Errorf("%s: what was opened is not %s: %v", path, got, err)
			}
		}
		if want == "" && err == nil {
			t.Errorf("%s: got %s", path, got)
		}
		if want != "" && (err != nil || got != filepath.Join(real, want)) {
			t.Errorf("%s: got %s, %v", path, got, err)
		}
	}
}
