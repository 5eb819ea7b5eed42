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
	list, _ := d.events.since(0)
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
	if _, err := d.policy.get(); err == nil || !strings.Contains(err.Error(), "of before stays in force") {
		t.Errorf("what is wrong: %v", err)
	}
	if err := d.reloadPolicy(); err == nil {
		t.Error("who asks for it is told again")
	}
	if err := errors.Join(os.Remove(d.cfg.Path), os.WriteFile(d.cfg.Path, append(was, "default_registry = \"new.example\"\n"...), 0o600)); err != nil {
		t.Fatal(err)
	}
	if now := d.inForce(); now.remotes.fallback != "new.example" {
		t.Errorf("in force: %+v", now.remotes)
	}
	if _, err := d.policy.get(); err != nil {
		t.Error(err)
	}
}

// Policy and registries are always of one version of the file, while it is
// replaced without end.
func TestOneVersionIsInForce(t *testing.T) {
	d := inProcess(t)
	was, err := os.ReadFile(d.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	version := func(n int) string {
		return fmt.Sprintf("%sdefault_registry = \"v%d.example\"\npermit {\n  images = [\"v%d\"]\n  allow = [\"raw_sockets\"]\n}\n", was, n, n)
	}
	digests := map[string]string{}
	for n := range 2 {
		if err := os.WriteFile(d.cfg.Path, []byte(version(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		now := d.inForce()
		digests[now.policy.Digest()] = now.remotes.fallback
	}
	if len(digests) != 2 {
		t.Fatalf("versions: %v", digests)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			next := d.cfg.Path + ".new"
			if err := errors.Join(os.WriteFile(next, []byte(version(n%2)), 0o600), os.Rename(next, d.cfg.Path)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 500 {
		if now := d.inForce(); digests[now.policy.Digest()] != now.remotes.fallback {
			t.Errorf("the policy of %s with %s", digests[now.policy.Digest()], now.remotes.fallback)
			break
		}
	}
	close(done)
	wg.Wait()
}

// Several collections at once, each of which sees tasks that another removes.
func TestTasksVanishDuringGC(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "log_level = \"error\"\n")
	path := archive(t, greeting)
	for i := range 30 {
		id := fmt.Sprintf("g%d-%d", os.Getpid(), i)
		if _, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path, Args: []string{"echo"}, Parameters: map[string]string{"GREETING": "x"}}); err != nil {
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
				_, _ = c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: archive(t, greeting), Parameters: map[string]string{"GREETING": "x"}})
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
