package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
)

// What a task sees at /proc, /dev/pts and /dev/shm is not below its root as the daemon has it: that is told, both ways,
// and none of it is passed over.
func TestCopyOfWhatATaskAloneHas(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "wait")
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	check(t, os.WriteFile(file, []byte("x"), 0o600))
	for at, fs := range map[string]string{"/proc": "proc", "/dev/pts": "devpts", "/dev/shm": "a tmpfs of the task alone"} {
		told := at + ": it is on " + fs + ", of which nothing is copied\n"
		h.gives(app.Failed, []string{"in task one: " + told}, "cp", "one:"+at, filepath.Join(dir, "out"))
		h.gives(app.Failed, []string{"it is on " + fs}, "cp", "one:"+at+"/1", filepath.Join(dir, "out"))
		h.gives(app.Failed, []string{"in task one: " + at, "it is on " + fs}, "cp", file, "one:"+at+"/")
	}
	h.gives(app.Failed, []string{"left out: it is on proc", "dev/pts: left out: it is on devpts", "not all was copied"},
		"cp", "one:/", filepath.Join(dir, "all"))
	h.gives(0, nil, "rm", "-f", "one")
}
