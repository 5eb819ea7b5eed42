package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

func TestExport(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	roots := filepath.Join(dir, "roots")
	check(t, os.Mkdir(roots, 0o755))
	check(t, mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: roots, Options: []string{"mode=755"}}))
	t.Cleanup(func() { check(t, mount.UnmountUnder(dir)) })
	h := newHost(t, "nfs {\n  export {\n    dir = \""+roots+
		"\"\n    clients = [\"10.0.0.0/24\"]\n    exports_file = \""+dir+"/exports\"\n  }\n}\n")
	h.gives(0, []string{"prog sha256:", "nfs://"}, "export", "prog")
	list := decoded[[]client.Export](h, "export", "--list")
	if len(list) != 1 || len(list[0].Names) != 1 || list[0].Names[0] != "prog" || !strings.HasPrefix(list[0].Path,
		roots+"/sha256-") {
		t.Fatalf("exported: %+v", list)
	}
	// What tasks have mounted is there, for they cannot make it.
	for _, name := range []string{"bin/prog", "dev", "var", "tmp", "alloc", "local", "secrets"} {
		if _, err := os.Lstat(filepath.Join(list[0].Path, "root", name)); err != nil {
			t.Error(err)
		}
	}
	var m struct{ Layers []struct{ Digest string } }
	b, err := os.ReadFile(filepath.Join(list[0].Path, "manifest.json"))
	check(t, err)
	if err := json.Unmarshal(b, &m); err != nil || len(m.Layers) == 0 {
		t.Errorf("manifest.json: %v %s", err, b)
	}
	if b, err := os.ReadFile(dir + "/exports"); err != nil || !strings.Contains(string(b), roots) ||
		!strings.Contains(string(b), "10.0.0.0/24") {
		t.Errorf("exports: %v\n%s", err, b)
	}
	h.gives(0, []string{"NAMES", "prog", list[0].Digest}, "export", "--list")
	h.gives(app.Failed, []string{"not on this host"}, "export", "nobody")
	h.gives(app.Failed, []string{"is not exported", "export --list"}, "export", "--remove", "nobody")
	for _, args := range [][]string{{"export"}, {"export", "--list", "prog"}, {"export", "--list", "--remove", "prog"},
		{"export", "a", "b"}} {
		if r := h.freejail(args...); r.code != app.Usage {
			t.Errorf("freejail %v: %d %s", args, r.code, r.errout)
		}
	}
	h.gives(0, nil, "export", "--remove", list[0].Digest)
	if list = decoded[[]client.Export](h, "export", "--list"); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
	if left, err := filepath.Glob(roots + "/sha256-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestExportIsNotSetUp(t *testing.T) {
	h := newHost(t, "")
	h.gives(app.Failed, []string{"nfs { export }"}, "export", "prog")
	h.gives(app.Failed, []string{"nfs { export }"}, "export", "--list")
	h.gives(exitUnknown, []string{"trusts no server"}, "run", "--storage", "nfs", "prog")
}
