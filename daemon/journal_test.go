package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// A line without its end is not taken for a step, and spoils none after it.
func TestTornJournal(t *testing.T) {
	dir := t.TempDir()
	open := func() journal {
		j, err := openJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.file.Close() })
		return j
	}
	write := func(j journal, r record) {
		if err := j.write(r); err != nil {
			t.Fatal(err)
		}
	}
	replay := func() *task {
		tk, err := open().replay()
		if err != nil {
			t.Fatal(err)
		}
		return tk
	}
	if tk := replay(); tk != nil {
		t.Fatalf("an empty journal tells of %q", tk.id())
	}
	j := open()
	write(j, record{Task: &client.Task{Spec: client.TaskSpec{ID: "t1"}}})
	write(j, record{Undo: &undo{Op: "root", Arg: "union"}})
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{"undo":{"op":"mou`); err != nil {
		t.Fatal(err)
	}
	tk := replay()
	if tk.id() != "t1" || len(tk.undos) != 1 {
		t.Fatalf("task %q with %d steps, want t1 with 1", tk.id(), len(tk.undos))
	}
	write(tk.journal, record{Destroyed: true})
	if tk = replay(); !tk.destroyed || len(tk.undos) != 1 {
		t.Fatalf("destroyed %v with %d steps, want destroyed with 1", tk.destroyed, len(tk.undos))
	}
}
