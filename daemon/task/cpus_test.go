package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
)

// What is no cgroup's is not read, wherever a path of it leads.
func TestProcessorsAreOfACgroup(t *testing.T) {
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "secret"), []byte("0"), 0o600)
	if err := errors.Join(err, os.Symlink("secret", filepath.Join(dir, "cpuset.cpus.effective"))); err != nil {
		t.Fatal(err)
	}
	m := &Manager{Host: Host{Log: hclog.NewNullLogger()}}
	for _, of := range []string{dir, filepath.Join(dir, "none"), "", "/proc/self"} {
		if got := m.processors(of); got != "" {
			t.Errorf("%s: %q", of, got)
		}
	}
}

// movedJails tells which jails are moved to which processors.
type movedJails struct {
	Jails
	moved chan string
}

func (j movedJails) SetCPUs(_ context.Context, jail, list string) error {
	j.moved <- jail + " " + list
	return nil
}

// Tasks that follow a cgroup are looked after by one goroutine, as long as there are any. One that was made for the
// processors of its cgroup is not moved there again.
func TestProcessorsAreFollowedTogether(t *testing.T) {
	jails := movedJails{moved: make(chan string, 10)}
	m := New(Host{Log: hclog.NewNullLogger(), Jails: jails})
	list, dir := "", ""
	for _, dir = range []string{"/sys/fs/cgroup/cpuset", "/sys/fs/cgroup"} {
		if list = m.processors(dir); list != "" {
			break
		}
	}
	if list == "" {
		t.Skip("this host has no cgroup with processors")
	}
	var tasks []*task
	follow := func(id, made string) {
		tk := &task{done: make(chan struct{}), cpus: made}
		tk.info.Jail, tk.info.Spec = "fj-"+id, client.TaskSpec{ID: id, Limits: client.Limits{CPUSetOf: dir}}
		tasks = append(tasks, tk)
		m.followCPUs(tk)
	}
	loops := func(want int) {
		t.Helper()
		n := -1
		for patience := time.Now().Add(time.Minute); n != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(patience) {
				t.Fatalf("%d goroutines, want %d", n, want)
			}
			b := make([]byte, 1<<20)
			n = strings.Count(string(b[:runtime.Stack(b, true)]), "task.(*Manager).keepOnCPUs(")
		}
	}
	for _, round := range []string{"a", "b"} {
		follow(round+"1", list)
		follow(round+"2", "")
		follow(round+"3", "none")
		moved := []string{<-jails.moved, <-jails.moved}
		slices.Sort(moved)
		if want := []string{"fj-" + round + "2 " + list, "fj-" + round + "3 " + list}; !slices.Equal(moved, want) {
			t.Errorf("moved: %q, want %q", moved, want)
		}
		loops(1)
		for _, tk := range tasks {
			tk.isOver()
		}
		loops(0)
	}
	if len(jails.moved) > 0 {
		t.Errorf("moved again: %s", <-jails.moved)
	}
}
