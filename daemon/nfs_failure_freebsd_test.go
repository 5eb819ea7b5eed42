package daemon

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testnfs"
)

// Whatever a server does to a root, a stop ends and leaves nothing.
func TestNFSStopWithoutServer(t *testing.T) {
	h := startNFSHost(t)
	path := nfsArchive(t)
	digest := h.image(path)
	dir := shortDir(t)
	c, _ := h.client(dir, "")
	for _, test := range []struct {
		name    string
		do      func() error
		undo    func() error
		reason  string
		another bool // a new task can start meanwhile
	}{
		{"packets vanish", h.Unplug, h.Plug, "has not answered", false},
		{"nfsd is stopped", h.StopNFSD, h.StartNFSD, "has not answered", false},
		{"the export is removed", h.Unexport, func() error { return h.Export(h.file) }, testnfs.URL, false},
		{"the root is replaced", func() error {
			if err := h.exporter.RemoveExport(t.Context(), digest); err != nil {
				return err
			}
			h.image(path)
			return nil
		}, func() error { return nil }, "ESTALE", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			startNFS(t, c, "one", digest)
			startNFS(t, c, "two", digest)
			began := time.Now()
			h.must(test.do)
			defer h.must(test.undo)
			for _, id := range []string{"one", "two"} {
				text, want := told(t, c, id, began, "unhealthy", "exited"), test.reason
				if strings.HasPrefix(text, "ended by SIGBUS") { // a page of its program is on the server alone
					want = testnfs.URL
				}
				if !strings.Contains(text, want) {
					t.Errorf("told %q, want %q in it", text, want)
				}
			}
			// It may wait for a page that the other task waits for too: then its
			// jail lasts as long as that one's.
			stopAll(t, c, "one")
			if test.another {
				startNFS(t, c, "three", digest)
				writes(t, c, "three", "/var/mine", 0)
				stopAll(t, c, "three")
			}
			stopAll(t, c, "two")
			clean(t, c, dir)
		})
	}
}

// A server that restarts is nothing that a task sees.
func TestNFSServerRestarts(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	dir := shortDir(t)
	c, _ := h.client(dir, "")
	one := startNFS(t, c, "one", digest)
	h.must(h.StopNFSD)
	h.must(h.StartNFSD)
	writes(t, c, "one", "/var/mine", 0)
	if again, err := c.Task(inTime(t), "one"); err != nil || again.PID != one.PID || again.State != client.Running {
		t.Errorf("the task: %+v %v", again, err)
	}
	stopAll(t, c, "one")
	clean(t, c, dir)
}

// A server that stays away ends its tasks, where the host says so.
func TestNFSLost(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	dir := shortDir(t)
	c, _ := h.client(dir, "  lost = \"2s\"\n")
	startNFS(t, c, "one", digest)
	began := time.Now()
	h.must(h.Unplug)
	told(t, c, "one", began, "lost")
	if _, err := c.Wait(inTime(t), "one"); err != nil {
		t.Error(err)
	}
	stopAll(t, c, "one")
	clean(t, c, dir)
}

// A daemon that is killed leaves mounts to the next, with the server there or
// away; an upgrade in place too.
func TestNFSKilledDaemon(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	for _, away := range []bool{false, true} {
		dir := shortDir(t)
		c, stop := h.client(dir, "")
		one := startNFS(t, c, "one", digest)
		if away {
			began := time.Now()
			h.must(h.Unplug)
			told(t, c, "one", began, "unhealthy")
		}
		if _, err := c.Upgrade(inTime(t), client.UpgradeRequest{}); err != nil {
			t.Errorf("away %t: upgrade: %v", away, err)
		}
		stop(syscall.SIGKILL)
		c, _ = h.client(dir, "")
		again, err := c.Task(inTime(t), "one")
		if err != nil || again.PID != one.PID || again.State != client.Running {
			t.Fatalf("away %t: after the kill: %+v %v", away, again, err)
		}
		if !away {
			writes(t, c, "one", "/var/mine", 0)
			startNFS(t, c, "two", digest)
			if m := nfsMounts(t, dir); len(m) != 1 {
				t.Errorf("the mount of before is not used: %+v", m)
			}
			stopAll(t, c, "two")
		}
		stopAll(t, c, "one")
		clean(t, c, dir)
		if away {
			h.must(h.Plug)
		}
	}
}

// At each step of a start the daemon is killed, before and after it acts.
func TestNFSKilledAtEachStep(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	for _, op := range []string{"nfs", "root", "mounts", "jail"} {
		for _, moment := range []string{"journalled", "done"} {
			t.Run(op+" "+moment, func(t *testing.T) {
				dir := shortDir(t)
				t.Setenv("FREEJAIL_FAULT_POINT", op+":"+moment)
				c, stop := h.client(dir, "")
				_, err := c.Start(inTime(t), client.TaskSpec{ID: "one", Owner: "cli", Image: digest, Storage: "nfs"})
				var answer *client.Error
				if err == nil || errors.As(err, &answer) {
					t.Fatalf("the daemon was not killed, it answered: %v", err)
				}
				stop(syscall.SIGKILL)
				t.Setenv("FREEJAIL_FAULT_POINT", "")
				c, _ = h.client(dir, "")
				clean(t, c, dir)
			})
		}
	}
}
