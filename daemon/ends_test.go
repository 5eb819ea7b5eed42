package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// held has a daemon that is started then stand still at a point, each time that it comes there, until it is let go.
func held(t *testing.T, point string) (letGo func()) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "held")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FREEJAIL_FAULT_POINT", point+"="+fifo)
	free := false
	letGo = func() {
		if free {
			return
		}
		free = true
		f, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err == nil {
			err = os.Remove(fifo) // who comes now finds none, and goes on
		}
		if err != nil {
			t.Error(err)
			return
		}
		f.Close()
	}
	t.Cleanup(letGo)
	return letGo
}

func startOne(t *testing.T, c *client.Client, id, path string) *client.Task {
	t.Helper()
	task, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path,
		Parameters: map[string]string{"GREETING": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitLog(c, id); err != nil {
		t.Fatal(err)
	}
	return task
}

// endOne stops a task and forgets it.
func endOne(t *testing.T, c *client.Client, id string) {
	t.Helper()
	e, err := c.Stop(t.Context(), id, client.StopRequest{Timeout: client.Duration(time.Minute)})
	if err != nil || e.Code != 3 {
		t.Fatalf("%s ended with %+v: %v", id, e, err)
	}
	if i, err := c.Task(t.Context(), id); err != nil || i.State != client.Exited {
		t.Errorf("%s is told as %+v: %v", id, i, err)
	}
	if err := c.Destroy(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
}

// leftovers are the keys of what is left, with what keeps it.
func leftovers(t *testing.T, c *client.Client) map[string]string {
	t.Helper()
	list, err := c.Tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range list {
		if i.State == client.Left {
			out[i.Key] = i.Left
		}
	}
	return out
}

// What cannot be taken from the host yet, be it a root or a record, keeps neither
// an end from being told nor an id from the next task, nor the removal of others:
// it goes by its own name when it can, also under the next daemon.
func TestEndsAreEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, path := shortDir(t), archive(t, greeting)
	letGo := held(t, "mounts:undone")
	c, stop := daemonAt(t, dir, "")
	first := startOne(t, c, "one", path)
	endOne(t, c, "one")
	wantEvent(t, c, "exited", "exit code 3")
	second := startOne(t, c, "one", path)
	if second.Root == first.Root || second.Jail == first.Jail || second.Key == first.Key {
		t.Errorf("the second has what is the first's: %+v", second)
	}
	if left := leftovers(t, c); left["one"] == "" || len(left) != 1 {
		t.Errorf("left is %v, want the first task of two", left)
	}

	stop(syscall.SIGKILL)
	letGo()
	t.Setenv("FREEJAIL_FAULT_POINT", "")
	c, _ = daemonAt(t, dir, "")
	for len(leftovers(t, c)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if i, err := c.Task(t.Context(), "one"); err != nil || i.State != client.Running || i.PID != second.PID ||
		i.Root != second.Root {
		t.Errorf("the second is told as %+v: %v", i, err)
	}
	if e, err := os.ReadDir(filepath.Join(dir, "state", "tasks")); err != nil || len(e) != 1 ||
		e[0].Name() != second.Key {
		t.Errorf("records: %v, want %s: %v", e, second.Key, err)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
	if left := leftOnHost(t, dir, "one"); strings.Contains(left, dir) {
		t.Errorf("left: %s", left)
	}
}

// A removal that stands still does not keep the janitor from others.
func TestRemovalsAreApart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, path := shortDir(t), archive(t, greeting)
	letGo := held(t, "ruleset:undone")
	record := filepath.Join(dir, "state", "tasks", "record")
	journalOf(t, record, exited(t, "record"))
	unblock := block(t, record)
	c, _ := daemonAt(t, dir, "")
	startOne(t, c, "held", path)
	endOne(t, c, "held")
	if err := c.Destroy(t.Context(), "record", false); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(leftovers(t, c)["record"], "mounted") {
		time.Sleep(10 * time.Millisecond)
	}
	report, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !warned(report, "leftovers", "mounted") {
		t.Errorf("doctor does not tell of what is left: %+v", report)
	}
	unblock()
	for leftovers(t, c)["record"] != "" {
		time.Sleep(10 * time.Millisecond)
	}
	if leftovers(t, c)["held"] == "" {
		t.Error("what is held is gone")
	}
	letGo()
	for len(leftovers(t, c)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	nothingLeft(t, dir)
}

func warned(report []client.Check, name, detail string) bool {
	for _, ch := range report {
		if ch.Name == name && ch.Status == "warning" && strings.Contains(ch.Detail, detail) {
			return true
		}
	}
	return false
}
