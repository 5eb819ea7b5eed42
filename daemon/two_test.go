package daemon

import (
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// A daemon that finds the name of its jail taken leaves the other's alone.
func TestTwoDaemonsOneName(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("containers are the daemon's own, their names too")
	}
	first, _ := daemonAt(t, shortDir(t), "")
	otherDir := shortDir(t)
	second, _ := daemonAt(t, otherDir, "")
	spec := client.TaskSpec{ID: "twice", Owner: "cli", Image: archive(t, greeting),
		Parameters: map[string]string{"GREETING": "x"}}
	if _, err := first.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("one name twice: %v", err)
	}
	nothingLeft(t, otherDir)
	if task, err := first.Task(t.Context(), "twice"); err != nil || task.State != client.Running {
		t.Errorf("the first task: %+v %v", task, err)
	}
	if u, err := first.Stats(t.Context(), "twice"); err != nil || len(u.Procs) != 1 {
		t.Errorf("the first task's process: %+v %v", u, err)
	}
	if err := first.Destroy(t.Context(), "twice", true); err != nil {
		t.Error(err)
	}
}
