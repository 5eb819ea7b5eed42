package jail

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A jail whose notes are damaged is not taken over, as nobody knows its limits, but it
// can be ended, and its notes with it.
func TestDamagedNotes(t *testing.T) {
	f := setup(t)
	for what, damage := range map[string]func(string) error{
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeros":     func(p string) error { return os.WriteFile(p, make([]byte, 50), 0o600) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.MkdirAll(filepath.Join(p, "x"), 0o700) },
	} {
		name := f.create(Limits{MemoryBytes: 1 << 30, OpenFiles: 100})
		pid, r := f.start(name, "/bin/prog", "inside-gate")
		f.ready(r)
		start, err := StartTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		note := f.m.noteFile(name)
		if err := os.Remove(note); err != nil {
			t.Fatal(err)
		}
		if err := damage(note); err != nil {
			t.Fatal(err)
		}
		f.m.mu.Lock()
		delete(f.m.jails, name) // as a later daemon begins
		f.m.mu.Unlock()
		if err := f.m.Adopt(name, pid, start); err == nil {
			t.Errorf("%s: it is taken over without its limits", what)
		}
		if err := f.m.Remove(t.Context(), name); err != nil {
			t.Errorf("%s: it cannot be removed: %v", what, err)
		}
		if _, err := os.Lstat(note); err == nil {
			t.Errorf("%s: the notes are left", what)
		}
	}
}
