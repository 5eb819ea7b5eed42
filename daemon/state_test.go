package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/images"
	"github.com/freejail/freejail/internal/testimage"
)

// starter starts a task and ends it again.
func starter(t *testing.T, c *client.Client) func(client.TaskSpec) error {
	return func(spec client.TaskSpec) error {
		spec.ID, spec.Parameters = "short", map[string]string{"GREETING": "x"}
		_, err := c.Start(t.Context(), spec)
		if err == nil {
			err = c.Destroy(t.Context(), spec.ID, true)
		}
		return err
	}
}

// The daemon reads as root: the path of its own store would be every private
// image's name, and a mount of its directory every socket and record.
func TestTheStateDirectoryIsNobodys(t *testing.T) {
	const password, refusal = "open-sesame-4711", "lies in the state directory"
	dir, r := shortDir(t), newRemote(t, password)
	r.push(t, password, "private:1", greeter)
	c, _ := daemonAt(t, dir, r.config("")+"permit {\n  mounts = [\"nullfs:/:rw\"]\n}\n")
	start := starter(t, c)
	name := r.host + "/private:1"
	if err := start(client.TaskSpec{Owner: "nomad", Image: name, Auth: &client.Auth{Username: "fleet",
		Password: password}}); err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	host := filepath.Join(t.TempDir(), "link") // the host's, to which nothing is confined
	if err := os.Symlink(filepath.Join(dir, "state"), host); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "state/images"), filepath.Join(host, "images"), host} {
		for _, owner := range []string{"nomad", "cli"} {
			err := start(client.TaskSpec{Owner: owner, Image: path, Confined: []string{own}})
			if err == nil || !strings.Contains(err.Error(), refusal) {
				t.Errorf("%s starts %s: %v", owner, path, err)
			}
		}
		for what, spec := range map[string]client.TaskSpec{
			"volume":    {Volumes: []client.Mount{{Source: path, Target: "/mnt", ReadOnly: true}}},
			"directory": {Dirs: []client.Mount{{Source: path, Target: "/mnt"}}},
		} {
			spec.Owner, spec.Image = "cli", name
			if err := start(spec); err == nil || !strings.Contains(err.Error(), refusal) {
				t.Errorf("%s as a %s: %v", path, what, err)
			}
		}
	}
	beside := filepath.Join(dir, "state-of-others") // begins as the state directory does
	if err := os.Mkdir(beside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := start(client.TaskSpec{Owner: "cli", Image: name,
		Volumes: []client.Mount{{Source: beside, Target: "/mnt"}}}); err != nil {
		t.Error(err)
	}
}

// A job's archive is had by its path, with what holds for paths; its image's name
// would give it to all, also when it is gone.
func TestAnArchivesNameIsNotForJobs(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	start, own, odd := starter(t, c), t.TempDir(), filepath.Join(t.TempDir(), "with space")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{own, odd} {
		path, err := testimage.Write(t.Context(), dir, greeter)
		if err != nil {
			t.Fatal(err)
		}
		if err := start(client.TaskSpec{Owner: "nomad", Image: path, Confined: []string{dir}}); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{images.PathName(path), images.PathName(path) + ":latest"} {
			err := start(client.TaskSpec{Owner: "nomad", Image: name, Confined: []string{t.TempDir()}})
			if err == nil || !strings.Contains(err.Error(), "give the archive's absolute path") {
				t.Errorf("a job starts %s: %v", name, err)
			}
		}
		if err := start(client.TaskSpec{Owner: "cli", Image: images.PathName(path)}); err != nil {
			t.Errorf("the operator's: %v", err)
		}
	}
}
