package task

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// The journal is the last that goes of a task's directory.
func TestTheJournalGoesLast(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	task := filepath.Join(t.TempDir(), "t1")
	for _, name := range []string{"the-last", "a-first"} { // names that come after the journal's too
		at := filepath.Join(task, name, "mounted")
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: at}); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := mount.UnmountUnder(at); err != nil {
				t.Error(err)
			}
		}()
	}
	const told = "a journal"
	if err := os.WriteFile(filepath.Join(task, journalName), []byte(told), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeTask(task); err == nil {
		t.Error("what is mounted was removed")
	}
	if b, err := os.ReadFile(filepath.Join(task, journalName)); err != nil || string(b) != told {
		t.Errorf("the journal went before the rest: %q %v", b, err)
	}
}
