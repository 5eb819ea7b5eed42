package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
// the others. It is named, and its id stays taken.
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
		_, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: archive(t, greeting), Parameters: map[string]string{"GREETING": "x"}})
		if err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("a task began with the id %s: %v", id, err)
		}
	}
}

// A record that cannot be removed stays known, whoever asks, until it can.
func TestARecordThatStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := shortDir(t)
	task := filepath.Join(dir, "state", "tasks", "t1")
	journalOf(t, task, exited(t, "t1"))
	unblock := block(t, task)
	c, _ := daemonAt(t, dir, "")
	for range 2 {
		if err := c.Destroy(t.Context(), "t1", false); err == nil {
			t.Error("what is still there is said to be removed")
		}
		if _, err := c.Task(t.Context(), "t1"); err != nil {
			t.Errorf("the daemon forgot what is still there: %v", err)
		}
	}
	unblock()
	if err := c.Destroy(t.Context(), "t1", false); err != nil && !client.IsNotFound(err) {
		t.Error(err) // the janitor may have been faster
	}
	if _, err := os.Stat(task); !os.IsNotExist(err) {
		t.Errorf("its directory is still there: %v", err)
	}
}
