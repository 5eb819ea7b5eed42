package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// allocDir is what an orchestrator makes for a task, with a file beside it that
// is none of the task's business.
func allocDir(t *testing.T) (shared, own, outside string) {
	t.Helper()
	base := t.TempDir()
	shared, own, outside = filepath.Join(base, "a", "alloc"), filepath.Join(base, "a", "web"),
		filepath.Join(base, "outside")
	for _, d := range []string{filepath.Join(shared, "logs"), filepath.Join(own, "local"),
		filepath.Join(own, "secrets"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return shared, own, outside
}

// A task's directories and files appear in it, unless its user has made links
// of them that lead to the host.
func TestTaskDirectories(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit {\n  mounts = [\"nullfs:/**:rw\", \"tmpfs\"]\n}\n")
	ctx := t.Context()
	path := archive(t, greeting)
	shared, own, outside := allocDir(t)
	spec := client.TaskSpec{ID: "one", Owner: "nomad", Image: path, Parameters: map[string]string{"GREETING": "x"},
		Confined: []string{shared, own},
		Dirs: []client.Mount{{Source: shared, Target: "/alloc"}, {Source: filepath.Join(shared, "logs"),
			Target: "/alloc/logs", ReadOnly: true},
			{Source: filepath.Join(own, "local"), Target: "/local"}, {Source: filepath.Join(own, "secrets"),
				Target: "/secrets"}}}
	spec.Volumes = []client.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/scratch"}}
	if err := os.WriteFile(filepath.Join(own, "secrets", "key"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"", "readonly"} {
		spec.Storage = driver
		task, err := c.Start(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(task.Root, "secrets", "key")); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(task.Root, "scratch", "x"), nil, 0o644); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(task.Root, "alloc", "logs", "x"), nil, 0o644); err == nil {
			t.Error("the logs can be written to")
		}
		if err := c.Destroy(ctx, "one", true); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{shared + "/logs", own + "/local"} {
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, d); err != nil {
			t.Fatal(err)
		}
	}
	bad := map[string]client.TaskSpec{"directory": spec, "image": spec, "volume": spec, "stdout": spec}
	for what, s := range bad {
		if what != "directory" {
			s.Dirs = nil
		}
		switch what {
		case "image":
			s.Image = own + "/local/prog.tar"
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(outside+"/prog.tar", b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		case "volume":
			s.Volumes = []client.Mount{{Source: own + "/local", Target: "/data"}}
		case "stdout":
			s.Stdout = shared + "/logs/stdout"
			if err := os.WriteFile(outside+"/stdout", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Start(ctx, s); err == nil || !strings.Contains(err.Error(), "outside of the task's directory") {
			t.Errorf("%s: %v", what, err)
		}
	}
	nothingLeft(t, dir)
}

// A limit that the host cannot enforce is told to the task's owner.
func TestUnenforcedLimits(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	if info.Features["racct"] == "0" {
		want = 2
	}
	_, err = c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, greeting),
		Parameters: map[string]string{"GREETING": "x"},
		Limits:     client.Limits{MemoryBytes: 1 << 30, MaxProcs: 100}})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	err = c.Events(t.Context(), 0, false, func(e client.Event) error {
		if e.Kind == "limits" && e.Task == "one" {
			told++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if told != want {
		t.Errorf("%d events tell of limits that are not enforced, want %d (%v)", told, want, info.Features)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
}
