package daemon

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// reported wants a line of doctor with each of the words.
func reported(t *testing.T, c *client.Client, words ...string) bool {
	t.Helper()
	report, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range report {
		all := check.Name == "recovery" && check.Status == "error" && check.Fix != ""
		for _, word := range words {
			all = all && strings.Contains(check.Detail, word)
		}
		if all {
			return true
		}
	}
	return false
}

// hasEvent wants an event with each of the words.
func hasEvent(t *testing.T, c *client.Client, words ...string) bool {
	t.Helper()
	if _, err := c.Tasks(t.Context()); err != nil { // which waits for the recovery
		t.Fatal(err)
	}
	found := false
	err := c.Events(t.Context(), 0, false, func(e client.Event) error {
		all := true
		for _, word := range words {
			all = all && strings.Contains(e.Task+" "+e.Message, word)
		}
		found = found || all
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// isSetAside wants the file away, an event and a line of doctor for it, and no line
// when the operator has removed it.
func isSetAside(t *testing.T, c *client.Client, path string) {
	t.Helper()
	to := path + ".damaged-1"
	if _, err := os.Lstat(to); err != nil {
		t.Errorf("it is not set aside: %v", err)
	}
	if !hasEvent(t, c, path, to) {
		t.Errorf("no event tells of %s", to)
	}
	if !reported(t, c, to) {
		t.Errorf("doctor does not tell of %s", to)
	}
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if reported(t, c, to) {
		t.Errorf("doctor tells of %s, which is gone", to)
	}
}

// damages of a file, by what is done to it.
var damages = map[string]func(path string, was []byte) error{
	"empty": func(path string, _ []byte) error { return os.Truncate(path, 0) },
	"zeros": func(path string, was []byte) error { return os.WriteFile(path, make([]byte, len(was)), 0o600) },
	"garbage": func(path string, was []byte) error {
		return os.WriteFile(path, bytes.Repeat([]byte("?"), len(was)), 0o600)
	},
	"half":      func(path string, was []byte) error { return os.Truncate(path, int64(len(was)/2)) },
	"directory": func(path string, _ []byte) error { return as(path, func() error { return os.Mkdir(path, 0o700) }) },
	"fifo": func(path string, _ []byte) error {
		return as(path,
			func() error { return unix.Mkfifo(path, 0o600) })
	},
	"device": func(path string, _ []byte) error {
		return as(path, func() error { return os.Symlink("/dev/zero", path) })
	},
}

func as(path string, other func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return other()
}

// What is damaged in the state directory is set aside, told, and done without.
func TestDamagedFiles(t *testing.T) {
	for name, damage := range damages {
		for _, file := range []string{"freejail.db", "rulesets.json", "images/index.json"} {
			t.Run(file+"/"+name, func(t *testing.T) {
				dir := shortDir(t)
				path := filepath.Join(dir, "state", file)
				c, stop := daemonAt(t, dir, "")
				archive := archive(t, greeting)
				start := func() error {
					_, err := c.Start(t.Context(), client.TaskSpec{ID: "damage", Owner: "cli", Image: archive,
						Parameters: map[string]string{"GREETING": "x"}})
					return err
				}
				if err := start(); err != nil {
					t.Fatal(err)
				}
				stop(os.Kill)
				was, err := os.ReadFile(path)
				if err == nil {
					err = damage(path, was)
				}
				if err != nil {
					t.Fatal(err)
				}
				c, _ = daemonAt(t, dir, "")
				isSetAside(t, c, path)
				for range 2 { // that which ran on, and another
					if err := c.Destroy(t.Context(), "damage", true); err != nil {
						t.Error(err)
					}
					if err := start(); err != nil {
						t.Error(err)
					}
				}
				if err := c.Destroy(t.Context(), "damage", true); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Whatever lies among the tasks stops none of them, and nobody waits for it.
func TestOddTasks(t *testing.T) {
	dir := shortDir(t)
	tasks := filepath.Join(dir, "state", "tasks")
	elsewhere := t.TempDir()
	journalOf(t, elsewhere, exited(t, "link"))
	journalOf(t, filepath.Join(tasks, "good"), exited(t, "good"))
	journalOf(t, filepath.Join(tasks, "0-no-id"), exited(t, "0-no-id"))
	odd := map[string]func(path string) error{
		"file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"link": func(path string) error { return os.Symlink(elsewhere, path) },
		"fifo": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"socket": func(path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
	}
	in := func(make func(journal string) error) func(string) error {
		return func(path string) error {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			return make(filepath.Join(path, "journal"))
		}
	}
	odd["journal-fifo"] = in(odd["fifo"])
	odd["journal-link"] = in(func(path string) error { return os.Symlink(filepath.Join(elsewhere, "journal"), path) })
	odd["journal-device"] = in(func(path string) error { return os.Symlink("/dev/zero", path) })
	odd["journal-directory"] = in(func(path string) error { return os.Mkdir(path, 0o700) })
	odd["journal-large"] = in(func(path string) error {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 1<<40)
	})
	for name, make := range odd {
		if err := make(filepath.Join(tasks, name)); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := daemonAt(t, dir, "")
	list, err := c.Tasks(t.Context())
	if err != nil || len(list) != 1 || list[0].Spec.ID != "good" {
		t.Errorf("the tasks are %v, want good: %v", list, err)
	}
	for name := range odd {
		path := filepath.Join(tasks, name)
		if !reported(t, c, path+":") || !hasEvent(t, c, name, "set aside") {
			t.Errorf("%s: doctor or the events do not tell of it", name)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is not left to the operator: %v", name, err)
		}
	}
	for name := range odd {
		if err := os.RemoveAll(filepath.Join(tasks, name)); err != nil {
			t.Fatal(err)
		}
		if reported(t, c, filepath.Join(tasks, name)+":") {
			t.Errorf("doctor tells of %s, which is gone", name)
		}
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "journal")); err != nil {
		t.Errorf("what a link led to was touched: %v", err)
	}
}
