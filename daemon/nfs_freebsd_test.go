package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testnfs"
)

var nfsImage = testimage.Spec{Name: "prog", Manifest: `{"schemaVersion":1}`, Cmd: []string{"inside"},
	Files: map[string]string{"/etc/passwd": "root::0:0::/root:/bin/sh\n"}}

func nfsArchive(t *testing.T) string {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), nfsImage)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// inTime is for a call that must not hang, by far more than it takes.
func inTime(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func startNFS(t *testing.T, c *client.Client, id, image string) *client.Task {
	t.Helper()
	task, err := c.Start(inTime(t), client.TaskSpec{ID: id, Owner: "cli", Image: image, Storage: "nfs"})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// writes runs a program in the jail that writes a file, and wants its errno.
func writes(t *testing.T, c *client.Client, id, path string, want syscall.Errno) {
	t.Helper()
	var out bytes.Buffer
	e, err := c.Exec(inTime(t), id, client.ExecSpec{Args: []string{"/bin/prog", "write", path}},
		client.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || !e.Known || syscall.Errno(e.Code) != want {
		t.Errorf("%s writes %s: %+v %v, want %d (%v)\n%s", id, path, e, err, want, want, out.String())
	}
}

func nfsMounts(t *testing.T, dir string) (out []mount.Info) {
	t.Helper()
	list, err := mount.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Type == "nfs" {
			out = append(out, m)
		}
	}
	return out
}

func stopAll(t *testing.T, c *client.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := c.Stop(inTime(t), id, client.StopRequest{Timeout: client.Duration(5 * time.Second)}); err != nil {
			t.Errorf("stop %s: %v", id, err)
		}
		if err := c.Destroy(inTime(t), id, true); err != nil {
			t.Errorf("destroy %s: %v", id, err)
		}
	}
}

// clean waits for what the kernel let go of late.
func clean(t *testing.T, c *client.Client, dir string) {
	t.Helper()
	// The kernel has a killed process that is just connecting to an absent
	// server wait until TCP gives up: 75 seconds, net.inet.tcp.keepinit.
	for range 1800 {
		tasks, err := c.Tasks(inTime(t))
		left, lerr := mount.Below(dir)
		noted, _ := os.ReadDir(filepath.Join(dir, "state", "nfs")) // of mounts that the kernel is about to let go
		if err == nil && lerr == nil && len(tasks)+len(left)+len(noted) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	nothingLeft(t, dir)
	if e, err := os.ReadDir(filepath.Join(dir, "state", "nfs")); len(e) > 0 || err != nil && !os.IsNotExist(err) {
		t.Errorf("nfs: left: %v %v", e, err)
	}
}

// told is the message of a task's first event of one of the kinds.
func told(t *testing.T, c *client.Client, id string, after time.Time, kinds ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	message := ""
	err := c.Events(ctx, 0, true, func(e client.Event) error {
		if e.Task == id && e.At.After(after) && slices.Contains(kinds, e.Kind) {
			message = e.Message
			cancel()
		}
		return nil
	})
	if message == "" {
		t.Fatalf("nobody tells that %s is %v: %v", id, kinds, err)
	}
	return message
}

// A host runs an image that it has never had.
func TestNFSRoot(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	for _, v := range []struct{ name, more string }{
		{"version 4", ""}, {"version 4.0", "minor_version = 0\n"},
		{"version 4.2", "minor_version = 2\n  nconnect = 2\n  read_size = \"64KiB\"\n"},
		{"version 3", "version = 3\n"}, {"copies", "copy = true\n"}, {"local upper", "upper = \"local\"\n"},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir := shortDir(t)
			c, _ := h.client(dir, v.more)
			task := startNFS(t, c, "one", digest)
			if task.Digest != digest || task.Storage != "nfs" {
				t.Errorf("started %+v", task)
			}
			startNFS(t, c, "two", digest)
			if m := nfsMounts(t, dir); len(m) != 1 {
				t.Errorf("two tasks of one image have %d mounts: %+v", len(m), m)
			}
			writes(t, c, "one", "/var/mine", 0)
			writes(t, c, "one", "/tmp/mine", 0)
			writes(t, c, "one", "/etc/mine", syscall.EROFS)
			writes(t, c, "one", "/mine", syscall.EROFS)
			for _, name := range []string{"var/mine", "tmp/mine"} {
				if _, err := os.Stat(filepath.Join(task.Root, name)); err != nil {
					t.Error(err)
				}
				two, err := c.Task(t.Context(), "two")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(filepath.Join(two.Root, name)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("one task sees what the other wrote: %v", err)
				}
			}
			for _, m := range nfsMounts(t, dir) {
				noSetuid(t, m.Target)
			}
			noSetuid(t, task.Root)
			stopAll(t, c, "one")
			writes(t, c, "two", "/var/mine", 0)
			stopAll(t, c, "two")
			clean(t, c, dir)
		})
	}
}

// On a pool each root is a dataset, which nobody writes to, with a snapshot.
func TestNFSRootOnZFS(t *testing.T) {
	pool := os.Getenv("FREEJAIL_TEST_ZPOOL")
	if pool == "" {
		t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
	}
	zfs := func(args ...string) string {
		out, err := exec.Command("zfs", args...).CombinedOutput()
		if err != nil {
			t.Errorf("zfs %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	dataset := fmt.Sprintf("%s/freejail-nfs-%d", pool, os.Getpid())
	t.Cleanup(func() { zfs("destroy", "-r", "-f", dataset) }) // the last, when the server is gone
	h := startNFSHostOn(t, dataset)
	digest := h.image(nfsArchive(t))
	root := dataset + "/" + strings.Replace(digest, ":", "-", 1)
	if got := zfs("get", "-H", "-o", "value", "readonly", root); got != "on" {
		t.Errorf("readonly is %s", got)
	}
	if got := zfs("list", "-H", "-t", "snapshot", "-o", "name", root); got != root+"@root" {
		t.Errorf("the snapshots are %q", got)
	}
	for _, more := range []string{"", "version = 3\n"} {
		dir := shortDir(t)
		c, _ := h.client(dir, more)
		startNFS(t, c, "one", digest)
		writes(t, c, "one", "/var/mine", 0)
		writes(t, c, "one", "/etc/mine", syscall.EROFS)
		stopAll(t, c, "one")
		clean(t, c, dir)
	}
	if err := h.exporter.RemoveExport(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	if got := zfs("list", "-H", "-r", "-t", "all", "-o", "name", dataset); got != dataset {
		t.Errorf("left after its removal: %s", got)
	}
}

// The policy decides about an image of a server as about one of the host's.
func TestNFSPolicy(t *testing.T) {
	h := startNFSHost(t)
	spec := nfsImage
	spec.Name, spec.Manifest = "greedy", `{"schemaVersion":1,"requires":{"allow":["raw_sockets"]}}`
	path, err := testimage.Write(t.Context(), t.TempDir(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.exporter.Import(t.Context(), client.ImportRequest{Path: path}, nil); err != nil {
		t.Fatal(err)
	}
	digest := h.image("greedy")
	dir := shortDir(t)
	c, _ := h.client(dir, "")
	want := client.TaskSpec{ID: "one", Owner: "cli", Image: "greedy", Storage: "nfs"}
	if _, err := c.Start(inTime(t), want); !client.IsRefused(err) || !strings.Contains(err.Error(),
		"allow.raw_sockets") {
		t.Errorf("not refused: %v", err)
	}
	clean(t, c, dir)
	if _, err := c.Approve(inTime(t), client.ApproveRequest{Image: "greedy@" + digest,
		Requests: []string{"allow:raw_sockets"}, Why: "a test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(inTime(t), want); err != nil {
		t.Errorf("not permitted by an approval: %v", err)
	}
	stopAll(t, c, "one")
	clean(t, c, dir)
	// Without a permit for roots over NFS a job cannot choose one.
	other := shortDir(t)
	strict, _ := daemonAt(t, other, "nfs {\n  servers = [\""+testnfs.URL+"\"]\n}\n")
	if _, err := strict.Start(inTime(t), client.TaskSpec{ID: "one", Owner: "cli", Image: "greedy",
		Storage: "nfs"}); !client.IsRefused(err) || !strings.Contains(err.Error(), "over NFS") {
		t.Errorf("not refused: %v", err)
	}
	clean(t, strict, other)
}

// A server that is away at a start costs the configured time.
func TestNFSAwayAtStart(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	dir := shortDir(t)
	c, _ := h.client(dir, "")
	refused := func(what string) {
		t.Helper()
		_, err := c.Start(inTime(t), client.TaskSpec{ID: "one", Owner: "cli", Image: digest, Storage: "nfs"})
		if e := client.AsError(err); err == nil || e.Code != client.CodeUnavailable {
			t.Errorf("%s: %v", what, err)
		}
		clean(t, c, dir)
	}
	h.must(h.StopNFSD)
	refused("nfsd is not there")
	h.must(h.StartNFSD)
	h.must(h.Unplug)
	refused("packets vanish")
	h.must(h.Plug)
	startNFS(t, c, "one", digest)
	stopAll(t, c, "one")
	clean(t, c, dir)
}

// While the server is away nobody else waits, and the task goes on when it is
// back.
func TestNFSAwayAndBack(t *testing.T) {
	h := startNFSHost(t)
	digest := h.image(nfsArchive(t))
	dir := shortDir(t)
	c, _ := h.client(dir, "")
	for name, away := range map[string][2]func() error{"packets vanish": {h.Unplug, h.Plug},
		"nfsd is stopped": {h.StopNFSD, h.StartNFSD}} {
		t.Run(name, func(t *testing.T) {
			one := startNFS(t, c, "one", digest)
			began := time.Now()
			h.must(away[0])
			told(t, c, "one", began, "unhealthy")
			nobodyWaits(t, c)
			began = time.Now()
			h.must(away[1])
			told(t, c, "one", began, "healthy")
			again, err := c.Task(inTime(t), "one")
			if err != nil || again.PID != one.PID || again.State != client.Running || again.Unhealthy != "" {
				t.Errorf("the task did not go on: %+v %v", again, err)
			}
			writes(t, c, "one", "/var/mine", 0)
			writes(t, c, "one", "/etc/mine", syscall.EROFS)
			stopAll(t, c, "one")
			clean(t, c, dir)
		})
	}
}

// nobodyWaits does what others do while the server of the task one is away.
func nobodyWaits(t *testing.T, c *client.Client) {
	t.Helper()
	task, err := c.Task(inTime(t), "one")
	if err != nil || task.Unhealthy == "" || task.State != client.Running {
		t.Errorf("the task: %+v %v", task, err)
	}
	if _, err := c.Tasks(inTime(t)); err != nil {
		t.Error(err)
	}
	if _, err := c.AllStats(inTime(t)); err != nil {
		t.Error(err)
	}
	if _, err := c.Doctor(inTime(t)); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := c.Metrics(inTime(t), &out); err != nil || !strings.Contains(out.String(),
		`freejail_nfs_mounts{health="away"} 1`) {
		t.Errorf("metrics: %v\n%s", err, out.String())
	}
	if _, err := c.Exec(inTime(t), "one", client.ExecSpec{Args: []string{"/bin/prog", "echo"}},
		client.ExecIO{Stdout: &out, Stderr: &out}); err == nil {
		t.Error("a program was started from a server that is away")
	}
	local, err := c.Start(inTime(t), client.TaskSpec{ID: "local", Owner: "cli", Image: nfsArchive(t)})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Exec(inTime(t), "local", client.ExecSpec{Args: []string{"/bin/prog", "echo"}},
		client.ExecIO{Stdout: &out, Stderr: &out}); err != nil || e.Code != 4 {
		t.Errorf("another task: %+v %v", e, err)
	}
	if local.Storage == "nfs" {
		t.Errorf("the other task is %+v", local)
	}
	stopAll(t, c, "local")
	if _, err := c.GC(inTime(t), client.GCRequest{}); err != nil {
		t.Errorf("gc: %v", err)
	}
}
