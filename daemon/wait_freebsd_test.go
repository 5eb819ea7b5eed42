package daemon

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// forkChains has a number of processes that each live until they have forked the
// next one, and ends with 5.
func forkChains(n int) int {
	signal.Ignore(syscall.SIGTERM)
	for range n {
		if pid, _, _ := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0); pid != 0 {
			continue
		}
		for { // nothing of Go's runtime runs in here
			if pid, _, _ := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0); pid != 0 {
				syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
			}
		}
	}
	fmt.Println("forking")
	return 5
}

// outliving starts a task whose main process ends with 5 and is outlived by others.
func outliving(t *testing.T, c *client.Client, spec client.TaskSpec) {
	t.Helper()
	spec.Owner, spec.Wait, spec.Parameters = "cli", "all", map[string]string{"GREETING": "x"}
	task, err := c.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitLog(c, spec.ID); err != nil {
		t.Fatal(err)
	}
	for task.Exit == nil {
		if task, err = c.Task(t.Context(), spec.ID); err != nil {
			t.Fatal(err)
		}
	}
	if task.State != client.Running || task.Exit.Code != 5 {
		t.Fatalf("%+v", task)
	}
}

// A task whose main process has ended before ends with the host as others do: it is
// told so, at that time, and as killed where it was.
func TestShutdownAfterTheMainProcess(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	ctx, path := t.Context(), archive(t, greeting)
	spec := client.TaskSpec{ID: ofHost("term"), Image: path, Args: []string{"leave"},
		StopTimeout: client.Duration(time.Hour)}
	outliving(t, c, spec)
	spec.ID, spec.StopSignal, spec.StopTimeout = ofHost("deaf"), "SIGURG", client.Duration(time.Second)
	outliving(t, c, spec)
	began := time.Now()
	r, err := c.Shutdown(ctx, client.ShutdownRequest{})
	both := []string{ofHost("deaf"), ofHost("term")}
	if err != nil || !slices.Equal(r.Ended, both) || !slices.Equal(r.Killed, both[:1]) {
		t.Errorf("%+v %v", r, err)
	}
	for range 2 {
		for _, id := range []string{"term", "deaf"} {
			e, err := c.Wait(ctx, ofHost(id))
			if err != nil || !e.Host || !e.Known || e.Code != 5 || e.At.Before(began) ||
				e.Message != "the host was shut down: its main process had ended: exit code 5" {
				t.Errorf("%s ended as %+v %v", id, e, err)
			}
		}
		stop(syscall.SIGTERM)
		c, _ = daemonAt(t, dir, "")
	}
}

// Whether a power cut ended a task or came just after its end, it is told as it was.
func TestPowerCutAfterTheMainProcess(t *testing.T) {
	for point, host := range map[string]bool{"": true, "exit:journalled": false} {
		dir := shortDir(t)
		t.Setenv("FREEJAIL_FAULT_POINT", point)
		c, stop := daemonAt(t, dir, "")
		id := ofHost("cut")
		outliving(t, c, client.TaskSpec{ID: id, Image: archive(t, greeting), Args: []string{"leave"}})
		if !host {
			_, err := c.Stop(t.Context(), id, client.StopRequest{Timeout: client.Duration(time.Hour)})
			wasKilled(t, err, stop)
		}
		stop(syscall.SIGKILL)
		otherBoot(t, dir)
		t.Setenv("FREEJAIL_FAULT_POINT", "")
		c, stop = daemonAt(t, dir, "")
		e, err := c.Wait(t.Context(), id)
		told := strings.Contains(e.Message, "the host was restarted")
		if err != nil || e.Host != host || e.Known == host || told != host || !host && e.Code != 5 {
			t.Errorf("%q: it ended as %+v %v", point, e, err)
		}
		if host && !strings.Contains(e.Message, "exit code 5") {
			t.Errorf("the code of its main process is not told: %s", e.Message)
		}
		if err := c.Destroy(t.Context(), id, false); err != nil {
			t.Error(err)
		}
		stop(syscall.SIGTERM)
	}
}

// Processes that fork faster than signals find them die with their jail, and nothing
// is said to hold them.
func TestStopOfWhatOutrunsSignals(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path := archive(t, greeting)
	var wg sync.WaitGroup
	for n := range 3 {
		id := fmt.Sprintf("b%d-%d", os.Getpid(), n)
		outliving(t, c, client.TaskSpec{ID: id, Image: path, Args: []string{"chains"}})
		wg.Go(func() {
			began := time.Now()
			e, err := c.Stop(t.Context(), id, client.StopRequest{Timeout: client.Duration(time.Second)})
			if err != nil || e.Code != 5 || e.Signal != 0 || e.Message != "" {
				t.Errorf("it ended as %+v %v", e, err)
			}
			t.Logf("%s has ended after %s", id, time.Since(began))
		})
	}
	wg.Wait()
	for n := range 3 {
		if err := c.Destroy(t.Context(), fmt.Sprintf("b%d-%d", os.Getpid(), n), false); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t, dir)
}
