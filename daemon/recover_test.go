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
	b, err := json.Marshal(map[string]any{"task": client.Task{Spec: client.TaskSpec{ID: id}, State: client.Exited,
		Exit: &client.Exit{}}})
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

// A task whose journal has lost its first record is set aside and told, and its logs
// stay: by what else there is of it, it is no start that got no further.
func TestALostJournal(t *testing.T) {
	cut := func(n int) func(string, []byte) error {
		return func(path string, was []byte) error { return os.WriteFile(path, was[:n], 0o600) }
	}
	for name, damage := range map[string]func(path string, was []byte) error{
		"empty": damages["empty"], "missing": func(path string, _ []byte) error { return os.Remove(path) },
		"cut": cut(20), "zeros": damages["zeros"],
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			task := filepath.Join(dir, "state", "tasks", "lost")
			journal := filepath.Join(task, "journal")
			c, stop := daemonAt(t, dir, "")
			startOne(t, c, "lost", archive(t, greeting))
			stop(os.Kill)
			was, err := os.ReadFile(journal)
			if err == nil {
				err = damage(journal, was)
			}
			if err != nil {
				t.Fatal(err)
			}
			left, _ := os.ReadFile(journal) // none where it is missing
			for range 2 {                   // the next daemon tells of it too
				c, stop = daemonAt(t, dir, "")
				if !reported(t, c, task+":") || !hasEvent(t, c, "lost", "set aside") {
					t.Error("doctor or the events do not tell of it")
				}
				if b, err := os.ReadFile(journal); err != nil || string(b) != string(left) {
					t.Errorf("of the journal %q is left, want %q: %v", b, left, err)
				}
				if st, err := os.Stat(filepath.Join(task, "stdout.log")); err != nil || st.Size() == 0 {
					t.Errorf("its log is lost: %v", err)
				}
				stop(os.Kill)
			}
			c, _ = daemonAt(t, dir, "")
			if i := startOne(t, c, "lost", archive(t, greeting)); i.Key != "lost.2" {
				t.Errorf("the next task has the key %s", i.Key)
			}
			if err := c.Destroy(t.Context(), "lost", true); err != nil {
				t.Error(err)
			}
			if err := os.RemoveAll(task); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, dir)
		})
	}
}

// Of a running task whose journal has lost all but its first records, or is gone with
// its directory, nothing runs on that nobody looks after, and its end is told.
func TestAJournalThatLostItsEnd(t *testing.T) {
	for name, damage := range map[string]func(task string, was []byte) error{
		"first record": func(task string, was []byte) error {
			first, _, _ := strings.Cut(string(was), "\n")
			return os.WriteFile(filepath.Join(task, "journal"), []byte(first+"\n"), 0o600)
		},
		"directory": func(task string, _ []byte) error { return os.RemoveAll(task) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			task := filepath.Join(dir, "state", "tasks", "old")
			c, stop := daemonAt(t, dir, "")
			startOne(t, c, "old", archive(t, greeting))
			stop(os.Kill)
			was, err := os.ReadFile(filepath.Join(task, "journal"))
			if err == nil {
				err = damage(task, was)
			}
			if err != nil {
				t.Fatal(err)
			}
			c, _ = daemonAt(t, dir, "")
			if !hasEvent(t, c, "old", "no journal tells of it") {
				t.Error("no event tells of its end")
			}
			nothingLeft(t, dir)
			if i := startOne(t, c, "old", archive(t, greeting)); i.Key != "old" {
				t.Errorf("the next task has the key %s", i.Key)
			}
			if err := c.Destroy(t.Context(), "old", true); err != nil {
				t.Error(err)
			}
			nothingLeft(t, dir)
		})
	}
}

// After a restart of the host an empty journal is what had not reached the disk; and
// so is, without one, the directory that a start had just made.
func TestAJournalThatNeverWas(t *testing.T) {
	dir := shortDir(t)
	tasks := filepath.Join(dir, "state", "tasks")
	journalOf(t, filepath.Join(tasks, "begun"), "")
	_, stop := daemonAt(t, dir, "")
	gone := func(id string) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(tasks, id)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", id, err)
		}
	}
	gone("begun")
	stop(os.Kill)
	journalOf(t, filepath.Join(tasks, "cut"), "")
	err := os.WriteFile(filepath.Join(tasks, "cut", "stdout.log"), []byte("x\n"), 0o600)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "state", "lock"), []byte("1 another-boot\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	daemonAt(t, dir, "")
	gone("cut")
	nothingLeft(t, dir)
}
