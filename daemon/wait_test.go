package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// A task that waits for all lasts as long as a process of it, over a crash of
// the daemon too, and ends with the code of the first.
func TestWaitForAll(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	ctx := t.Context()
	path := archive(t, `{"schemaVersion":1,"wait":"all"}`)
	spec := client.TaskSpec{ID: "one", Owner: "cli", Image: path, Args: []string{"leave"},
		Env: map[string]string{"GREETING": "x"}}
	task, err := c.Start(ctx, spec)
	if runtime.GOOS == "linux" {
		if err == nil || !strings.Contains(err.Error(), "FreeBSD") {
			t.Errorf("this system can wait for the first process alone: %v", err)
		}
		nothingLeft(t, dir)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitGreeting(t, c, "hello x\n")
	for task.Exit == nil {
		if task, err = c.Task(ctx, "one"); err != nil {
			t.Fatal(err)
		}
	}
	if task.State != client.Running || task.Exit.Code != 5 {
		t.Errorf("%+v", task)
	}
	stop(syscall.SIGKILL)
	c, _ = daemonAt(t, dir, "")
	if task, err = c.Task(ctx, "one"); err != nil || task.State != client.Running {
		t.Fatalf("after a crash: %+v %v", task, err)
	}
	if u, err := c.Stats(ctx, "one"); err != nil || len(u.Procs) != 1 {
		t.Errorf("%+v %v", u, err)
	}
	// The signal reaches those that are left, or this would take an hour.
	exit, err := c.Stop(ctx, "one", client.StopRequest{Timeout: client.Duration(time.Hour)})
	if err != nil || exit.Code != 5 || !exit.Known || exit.Signal != 0 {
		t.Errorf("%+v %v", exit, err)
	}
	if err := c.Destroy(ctx, "one", false); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

// One connection tells of the ends of all tasks, with their codes, and who asks beside it is told at once.
func TestEndsOfAllTasks(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	path := archive(t, `{"schemaVersion":1}`)
	begun, ended := make(chan bool), make(chan client.Ended, 10)
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		over <- c.Ends(ctx, func() { close(begun) }, func(e client.Ended) { ended <- e })
	}()
	<-begun
	for i := range 3 {
		spec := client.TaskSpec{ID: fmt.Sprint("t", i), Owner: "nomad", Image: path, Args: []string{"told"}}
		if _, err := c.Start(ctx, spec); err != nil {
			t.Fatal(err)
		}
		if e, err := c.Over(ctx, spec.ID); err != nil || e != nil {
			t.Errorf("%s has not ended: %+v %v", spec.ID, e, err)
		}
	}
	for i := range 3 {
		id := fmt.Sprint("t", i)
		exit, err := c.Stop(ctx, id, client.StopRequest{Signal: "SIGKILL", Timeout: client.Duration(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if e := <-ended; e.ID != id || !e.Exit.Known || e.Exit.Signal != exit.Signal || e.Exit.Signal == 0 {
			t.Errorf("%s: %+v, want %+v", e.ID, e.Exit, exit)
		}
		if e, err := c.Over(ctx, id); err != nil || e == nil || e.Signal != exit.Signal {
			t.Errorf("%s has ended: %+v %v", id, e, err)
		}
		if err := c.Destroy(ctx, id, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Over(ctx, "t0"); !client.IsNotFound(err) {
		t.Errorf("of one that is removed: %v", err)
	}
	stop()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The image says which signal stops it; the job may say another.
func TestStopSignals(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	ctx := t.Context()
	path := archive(t, `{"schemaVersion":1,"stop":{"signal":"SIGUSR1"}}`)
	realtime := map[string]syscall.Signal{"linux": 34, "freebsd": 65}[runtime.GOOS]
	for own, want := range map[string]syscall.Signal{"": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2,
		"usr2": syscall.SIGUSR2, "SIGRTMIN+3": realtime + 3, "rtmin+4": realtime + 4,
		strconv.Itoa(int(realtime) + 5): realtime + 5} {
		spec := client.TaskSpec{ID: "one", Owner: "cli", Image: path, StopSignal: own, Args: []string{"told"}}
		if _, err := c.Start(ctx, spec); err != nil {
			t.Fatal(err)
		}
		awaitGreeting(t, c, "told\n")
		exit, err := c.Stop(ctx, "one", client.StopRequest{Timeout: client.Duration(time.Hour)})
		// On FreeBSD Go's programs have no handlers for real-time signals.
		if err != nil || exit.Code != int(want) && exit.Signal != int(want) {
			t.Errorf("%q: %+v %v, want the signal %d", own, exit, err, want)
		}
		if err := c.Destroy(ctx, "one", false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "cli", Image: path,
		StopSignal: "SIGNOTHING"}); err == nil {
		t.Error("a stop signal that does not exist was taken")
	}
	nothingLeft(t, dir)
}
