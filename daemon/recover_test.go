package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// block makes a directory with something in it that cannot be removed until
// the test ends, or until it is unblocked.
func block(t *testing.T, dir string) (unblock func()) {
	t.Helper()
	at := filepath.Join(dir, "mounted")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: at}); err != nil {
		t.Fatal(err)
	}
	unblock = func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(unblock)
	return unblock
}

func journalOf(t *testing.T, dir, lines string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
}

func exited(t *testing.T, id string) string {
	t.Helper()
	b, err := json.Marshal(record{Task: &client.Task{Spec: client.TaskSpec{ID: id}, State: client.Exited, Exit: &client.Exit{}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// One task or leftover that cannot be recovered does not keep the daemon from
// the others. It is named, and its id is free.
func TestWhatCannotBeRecovered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	tasks := filepath.Join(state, "tasks")
	journalOf(t, filepath.Join(tasks, "good"), exited(t, "good"))
	journalOf(t, filepath.Join(tasks, "unreadable"), "what is this\n")
	journalOf(t, filepath.Join(tasks, "anothers"), exited(t, "good"))
	journalOf(t, filepath.Join(tasks, "stuck"), "")
	block(t, filepath.Join(tasks, "stuck"))
	block(t, filepath.Join(state, "storage", "tmp", "chain-1"))
	block(t, filepath.Join(state, "images", "tmp", "pull-1"))
	c, _ := daemonAt(t, dir, "")
	if list, err := c.Tasks(t.Context()); err != nil || len(list) != 1 || list[0].Spec.ID != "good" {
		t.Errorf("the tasks are %v, want good: %v", list, err)
	}
	report, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"unreadable", "anothers", "stuck"} {
		told := false
		for _, check := range report {
			told = told || check.Name == "recovery" && strings.Contains(check.Detail, filepath.Join(tasks, id)+":")
		}
		if !told {
			t.Errorf("%s is not named: %+v", id, report)
		}
		if i := startOne(t, c, id, archive(t, greeting)); i.Key == id {
			t.Errorf("a task got the directory of %s", id)
		}
		if err := c.Destroy(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
}

// A record that cannot be removed stays known until it can, and keeps its id from
// no task.
func TestARecordThatStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := shortDir(t)
	task := filepath.Join(dir, "state", "tasks", "t1")
	journalOf(t, task, exited(t, "t1"))
	unblock := block(t, task)
	c, _ := daemonAt(t, dir, "")
	if err := c.Destroy(t.Context(), "t1", false); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, c); !strings.Contains(left["t1"], "mounted") {
		t.Errorf("the daemon forgot what is still there: %v", left)
	}
	if err := c.Destroy(t.Context(), "t1", false); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("what is left is destroyed again: %v", err)
	}
	if i := startOne(t, c, "t1", archive(t, greeting)); i.Key != "t1.2" {
		t.Errorf("the next task has the key %s", i.Key)
	}
	if err := c.Destroy(t.Context(), "t1", true); err != nil {
		t.Error(err)
	}
	unblock()
	for len(leftovers(t, c)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(task); !os.IsNotExist(err) {
		t.Errorf("its directory is still there: %v", err)
	}
	nothingLeft(t, dir)
}
