package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// A daemon whose recovery takes long answers from the beginning: at once what it
// is and what it knows of the tasks, all else when it has found out. All tasks are
// recovered side by side.
func TestSlowRecovery(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	path, ctx := archive(t, greeting), t.Context()
	ids := []string{ofHost("one"), ofHost("two"), ofHost("three")}
	for _, id := range ids {
		if _, err := c.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: path,
			Parameters: map[string]string{"GREETING": "x"}}); err != nil {
			t.Fatal(err)
		}
	}
	stop(syscall.SIGTERM)
	held := filepath.Join(dir, "held")
	if err := unix.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FREEJAIL_FAULT_POINT", "recovery:begun="+held)
	c, _ = daemonAt(t, dir, "")
	info, err := c.Info(ctx)
	if err != nil || info.Recovering != "recovering: 0 of 3 tasks" || info.Healthy || info.Tasks != 3 {
		t.Errorf("it is said: %+v %v", info, err)
	}
	list, err := c.TasksNow(ctx)
	if err != nil || len(list) != 3 || !list[0].Recovering || !list[2].Recovering {
		t.Errorf("the tasks: %+v %v", list, err)
	}
	waits := make(chan string, 100)
	w := client.New(filepath.Join(dir, "s"))
	w.Waiting = func(why string) { waits <- why }
	answers := make(chan error, 4)
	go func() { _, err := w.Task(ctx, ids[0]); answers <- err }()
	go func() { _, err := w.Tasks(ctx); answers <- err }()
	go func() {
		_, err := w.Exec(ctx, ids[1], client.ExecSpec{Args: []string{"/bin/prog", "echo"}},
			client.ExecIO{Stdout: os.Stderr, Stderr: os.Stderr})
		answers <- err
	}()
	go func() {
		_, err := w.Stop(ctx, ids[2], client.StopRequest{Timeout: client.Duration(time.Hour)})
		answers <- err
	}()
	for range 4 {
		select {
		case why := <-waits:
			if !strings.Contains(why, "recovering: 0 of 3 tasks") {
				t.Errorf("who waits is told: %s", why)
			}
		case err := <-answers:
			t.Fatalf("answered before it is recovered: %v", err)
		}
	}
	// All three wait for this: one after the other they would wait thrice.
	f, err := os.OpenFile(held, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if info, err := c.Info(ctx); err != nil || info.Recovering != "" || !info.Healthy {
		t.Errorf("afterwards: %+v %v", info, err)
	}
	for _, id := range ids {
		if err := c.Destroy(ctx, id, true); err != nil {
			t.Error(err)
		}
	}
}
