package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// What an image makes of a target by a link is judged too.
func TestALinkLeadsNoMountRoundTheDenies(t *testing.T) {
	v := newVictim(t, "permit {\n  mounts = [\"tmpfs\"]\n  users = [\"root\"]\n}\ndeny {\n  mounts = "+
		"[\"tmpfs:/etc\"]\n}\n")
	image := v.image(testimage.Spec{Name: "links", Cmd: []string{"inside"}, Manifest: `{"schemaVersion":1}`,
		Links: map[string]string{"/x": "etc", "/y": "var"}})
	at := func(target string) client.TaskSpec {
		return client.TaskSpec{Image: image,
			Volumes: []client.Mount{{Type: "tmpfs", Target: target, Options: "size=65536"}}}
	}
	v.refuses(at("/etc"), "denied")
	v.refuses(at("/x"), "denied")
	v.refuses(at("/x/below"), "denied")
	spec := at("/y/below")
	spec.ID, spec.Owner = "good", "nomad"
	task, err := v.c.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, m := range mounts(t, v.dir) {
		found = found || m.Target == filepath.Join(task.Root, "var", "below")
	}
	if !found {
		t.Errorf("nothing is mounted at /var/below: %v", mounts(t, v.dir))
	}
	if err := v.c.Destroy(t.Context(), "good", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, v.dir)
}

// An outer mount does not hide one within it that was named before.
func TestMountsWithinMounts(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, strings.ReplaceAll("permit {\n  mounts = [\"nullfs:DIR/srv\"]\n}\n", "DIR", dir))
	for _, d := range []string{"srv/outer/in", "srv/inner"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/srv/inner/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, storage := range []string{"", "readonly"} {
		task, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli",
			Image: archive(t, `{"schemaVersion":1}`), Storage: storage,
			Volumes: []client.Mount{{Source: dir + "/srv/inner", Target: "/data/in"},
				{Source: dir + "/srv/outer", Target: "/data"}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(task.Root + "/data/in/file"); err != nil {
			t.Errorf("%s: the inner one is hidden: %v", storage, err)
		}
		if err := c.Destroy(t.Context(), "one", true); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft(t, dir)
}

// A chown -R does not end at a link of the image.
func TestALinkOfTheImageGetsAnOwner(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "links", Cmd: []string{"inside"},
		Manifest: `{"schemaVersion":1}`, Links: map[string]string{"/etc/link": "hosts"}})
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(task.Root+"/etc/link", 1, 1); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}
