package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

const killed = syscall.SIGKILL

func policyEvents(d *Daemon) (n int) {
	list, _ := d.events.Since(0)
	for _, e := range list {
		if e.Kind == "policy" {
			n++
		}
	}
	return n
}

// That the host's file cannot be read is told once, and it is read again as soon
// as it can be.
func TestHostFileThatCannotBeRead(t *testing.T) {
	d := inProcess(t)
	was, err := os.ReadFile(d.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	before := d.inForce()
	if err := errors.Join(os.Remove(d.cfg.Path), os.Mkdir(d.cfg.Path, 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if d.inForce() != before {
			t.Fatal("the policy of before is not in force")
		}
	}
	if n := policyEvents(d); n != 1 {
		t.Errorf("%d events", n)
	}
	if _, err := d.follower.Last(); err == nil || !strings.Contains(err.Error(), "the previous policy stays in force") {
		t.Errorf("what is wrong: %v", err)
	}
	if err := d.follower.Reload(); err == nil {
		t.Error("who asks for it is told again")
	}
	if err := errors.Join(os.Remove(d.cfg.Path),
		os.WriteFile(d.cfg.Path, append(was, "default_registry = \"new.example\"\n"...), 0o600)); err != nil {
		t.Fatal(err)
	}
	if ref, _, err := d.inForce().Reference("x"); err != nil || ref.Host != "new.example" {
		t.Errorf("in force: %v %v", ref, err)
	}
	if _, err := d.follower.Last(); err != nil {
		t.Error(err)
	}
}

// Several collections at once, each of which sees tasks that another removes.
func TestTasksVanishDuringGC(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "log_level = \"error\"\n")
	path := archive(t, greeting)
	for i := range 30 {
		id := fmt.Sprintf("g%d-%d", os.Getpid(), i)
		if _, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path, Args: []string{"echo"},
			Parameters: map[string]string{"GREETING": "x"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.GC(t.Context(), client.GCRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	nothingLeft(t, dir)
}

// A daemon that is told to end in the middle of a start ends that first: nothing
// is left of it, and no ruleset.
func TestShutDownDuringAStart(t *testing.T) {
	for _, point := range []string{"ruleset:journalled", "ruleset:done", "mounts:done"} {
		t.Run(point, func(t *testing.T) {
			dir, id := shortDir(t), fmt.Sprintf("e%d", os.Getpid())
			fifo := filepath.Join(dir, "pause")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("FREEJAIL_FAULT_POINT", point+"="+fifo)
			c, stop := daemonAt(t, dir, "")
			go func() {
				_, _ = c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: archive(t, greeting),
					Parameters: map[string]string{"GREETING": "x"}})
			}()
			w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { stop(syscall.SIGTERM); close(ended) }()
			for { // until it no longer listens
				if _, err := c.Info(t.Context()); err != nil {
					break
				}
			}
			w.Close()
			<-ended
			nothingLeft(t, dir)
			if left := leftOnHost(t, dir, id); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}
