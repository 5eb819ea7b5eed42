package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

// races is how many starts run against an attacker; FREEJAIL_RACES asks for more.
func races() int {
	if n, err := strconv.Atoi(os.Getenv("FREEJAIL_RACES")); err == nil {
		return n
	}
	return 40
}

// flip exchanges the directory a for a link to what it is told, without end: the
// program of a task that shares a volume.
func flip(dir, victim string) error {
	for _, d := range []string{"a/d", "x"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			return err
		}
	}
	a, l := filepath.Join(dir, "a"), filepath.Join(dir, "l")
	if err := os.Symlink(victim, l); err != nil {
		return err
	}
	for {
		if err := swapNames(a, l); err != nil {
			return err
		}
	}
}

// A task that exchanges a directory of a shared volume for a link has no mount of
// another task land on the host, neither of what is asked for by path nor of the
// volume itself.
func TestTasksCannotMoveMounts(t *testing.T) {
	dir := shortDir(t)
	for _, d := range []string{"srv/shared", "srv/own", "host/d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/host/d/file", []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := daemonAt(t, dir, strings.ReplaceAll("permit {\n  mounts = [\"nullfs:DIR/srv:rw\", "+
		"\"tmpfs:/data:size<=64MiB\"]\n}\n", "DIR", dir))
	shared := client.Mount{Type: "nullfs", Source: dir + "/srv/shared", Target: "/data"}
	path, err := testimage.Write(t.Context(), t.TempDir(),
		testimage.Spec{Name: "flip", Cmd: []string{"flip", "/data", dir + "/host"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "attacker", Owner: "cli", Image: path,
		Volumes: []client.Mount{shared}}); err != nil {
		t.Fatal(err)
	}
	r := racer{t: t, dir: dir, c: c, image: archive(t, `{"schemaVersion":1}`), before: mounts(t, dir)}
	for name, second := range map[string]client.Mount{
		"tmpfs":  {Type: "tmpfs", Target: "/data/a/d", Options: "size=65536"},
		"nullfs": {Type: "nullfs", Source: dir + "/srv/own", Target: "/data/a/d"},
		"source": {Type: "nullfs", Source: dir + "/srv/shared/a/d", Target: "/data/x"},
	} {
		t.Run(name, func(t *testing.T) { r.t = t; r.race([]client.Mount{shared, second}) })
	}
	if i, err := c.Task(t.Context(), "attacker"); err != nil || i.State != client.Running {
		t.Errorf("the attacker does not run: %+v %v", i, err)
	}
	if err := c.Destroy(t.Context(), "attacker", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

type racer struct {
	t          *testing.T
	dir, image string
	c          *client.Client
	before     []mount.Info
}

func (r *racer) race(volumes []client.Mount) {
	started, refused := 0, 0
	for range races() {
		_, err := r.c.Start(r.t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: r.image, Volumes: volumes})
		r.check()
		if err != nil {
			refused++
			continue
		}
		started++
		if err := r.c.Destroy(r.t.Context(), "one", true); err != nil {
			r.t.Fatal(err)
		}
		if now := mounts(r.t, r.dir); len(now) != len(r.before) {
			r.t.Fatalf("mounts are left: %v; before there were %v", now, r.before)
		}
	}
	r.t.Logf("%d started, %d refused", started, refused)
	if started == 0 || refused == 0 {
		r.t.Errorf("%d started and %d were refused: the directory was not exchanged while they did", started, refused)
	}
}

// check looks for mounts in other places than roots of tasks.
func (r *racer) check() {
	r.t.Helper()
	for _, m := range mounts(r.t, r.dir) {
		if !task.Within(r.dir+"/state", m.Target) {
			r.t.Fatalf("%s is mounted on %s", m.Type, m.Target)
		}
	}
	if b, err := os.ReadFile(r.dir + "/host/d/file"); err != nil || string(b) != "the host's" {
		r.t.Fatalf("the host's file reads %q: %v", b, err)
	}
}

func mounts(t *testing.T, dir string) []mount.Info {
	t.Helper()
	list, err := mount.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
