package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testcrash"
)

// What is not synced may be lost, but hinders nobody and is never taken for what it
// was not.
func TestPowerCutsOfJournals(t *testing.T) {
	do := func(dir string, ack func(string)) {
		task := filepath.Join(dir, "one")
		if err := os.Mkdir(task, 0o700); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(task)
		if err != nil {
			t.Fatal(err)
		}
		err = j.write(record{Task: &client.Task{Spec: client.TaskSpec{ID: "one"}}})
		for i := range 3 {
			err = errors.Join(err, j.write(record{Undo: &undo{Op: fmt.Sprint(i)}}))
		}
		if err = errors.Join(err, j.remove()); err != nil {
			t.Fatal(err)
		}
	}
	testcrash.Run(t, do, func(dir string, _ []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "one" })
		if i < 0 {
			return
		}
		tk, err := readTask(filepath.Join(dir, "one"), entries[i])
		if err != nil {
			t.Errorf("a journal that was cut off is refused: %v", err)
		}
		if tk == nil {
			return
		}
		for n, u := range tk.undos {
			if u.Op != fmt.Sprint(n) {
				t.Errorf("step %d is %q", n, u.Op)
			}
		}
	})
}
