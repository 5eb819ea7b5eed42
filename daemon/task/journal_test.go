package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// A line without its end and a crash's zeros are not taken for steps, and spoil
// none after them.
func TestTornJournal(t *testing.T) {
	dir := t.TempDir()
	open := func() *journal {
		j, err := openJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.file.Close() })
		return j
	}
	write := func(j *journal, r record) {
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
	var tk *task
	for _, tail := range []string{`{"undo":{"op":"mou`, strings.Repeat("\x00", 300) + "\n" +
		`{"undo":{"op":"mounts"}}` + "\n"} {
		if _, err := f.WriteString(tail); err != nil {
			t.Fatal(err)
		}
		if tk = replay(); tk.id() != "t1" || len(tk.undos) != 1 {
			t.Fatalf("after %.20q: task %q with %d steps, want t1 with 1", tail, tk.id(), len(tk.undos))
		}
	}
	write(tk.journal, record{Destroyed: true})
	if tk = replay(); !tk.destroyed || len(tk.undos) != 1 {
		t.Fatalf("destroyed %v with %d steps, want destroyed with 1", tk.destroyed, len(tk.undos))
	}
}

// What a full disk cuts off is taken back, so that the next line can be read.
func TestJournalOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: dir,
		Options: []string{"size=65536"}}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	}()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.file.Close()
	for _, id := range []string{"one", strings.Repeat("x", 100_000), "two"} {
		err := j.write(record{Task: &client.Task{Spec: client.TaskSpec{ID: id}}})
		if full := len(id) > 3; full != errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a line of more than %d bytes: %v", len(id), err)
		}
	}
	again, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.file.Close()
	if tk, err := again.replay(); err != nil || tk.id() != "two" {
		t.Errorf("read back: %+v %v", tk, err)
	}
}
