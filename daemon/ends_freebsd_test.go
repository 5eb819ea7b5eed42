package daemon

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testnfs"
)

// dying are the jails that the kernel has not let go of.
func dying(t *testing.T) (out []string) {
	t.Helper()
	for _, l := range lines(t, "jls", "-d", "name", "dying") {
		if name, ok := strings.CutSuffix(l, " true"); ok {
			out = append(out, name)
		}
	}
	return out
}

// A server whose clients have not closed their connections leaves a jail that is
// dying for minutes. That keeps neither its root nor its id.
func TestEndWithClients(t *testing.T) {
	dir, path := shortDir(t), archive(t, greeting)
	c, _ := daemonAt(t, dir, "")
	for _, storage := range []string{"union", "readonly"} {
		t.Run(storage, func(t *testing.T) {
			id := fmt.Sprintf("srv%d-%s", os.Getpid(), storage)
			spec := client.TaskSpec{ID: id, Owner: "cli", Image: path, Storage: storage, Args: []string{"serve"},
				Parameters: map[string]string{"GREETING": "x"}}
			began := serveOne(t, c, spec)
			endOne(t, c, id)
			if !slices.Contains(dying(t), began.Jail) {
				t.Errorf("the jail is not dying, so nothing is tried: %v", dying(t))
			}
			for _, m := range mounts(t, dir) {
				if strings.HasPrefix(m.Target, began.Root) {
					t.Errorf("%s is mounted after the task was forgotten", m.Target)
				}
			}
			again := serveOne(t, c, spec)
			if again.Key != id {
				t.Errorf("the next task has the key %s", again.Key)
			}
			endOne(t, c, id)
			if left := leftovers(t, c); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			nothingLeft(t, dir)
		})
	}
}

// serveOne starts a server and has a client that does not close its connection
// before the test ends.
func serveOne(t *testing.T, c *client.Client, spec client.TaskSpec) *client.Task {
	t.Helper()
	task, err := c.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitLog(c, spec.ID); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := c.Logs(t.Context(), spec.ID, "stdout", false, -1, &log); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", strings.TrimSpace(log.String()), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return task
}

// A task that writes to its output may set flags on what it writes to: neither its
// record nor its id is kept by that.
func TestFlagsOnAnOutput(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, greeting),
		Args:       []string{"flagged"},
		Parameters: map[string]string{"GREETING": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(t.Context(), "one"); err != nil || e.Code != 0 {
		t.Fatalf("it could not set a flag: %+v %v", e, err)
	}
	if err := c.Destroy(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, c); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	nothingLeft(t, dir)
}

// flagOutput sets UF_IMMUTABLE on standard output; its code is the errno.
func flagOutput() int {
	errno, _ := syscall.Fchflags(1, 0x2).(syscall.Errno)
	return int(errno)
}

// readsFromAfar starts a task "far" that reads from a server, and takes the server
// away.
func readsFromAfar(t *testing.T, dir string) (*client.Client, client.TaskSpec, *nfsHost) {
	t.Helper()
	h := startNFSHost(t)
	e, err := h.exporter.Export(t.Context(), client.ExportRequest{Image: nfsArchive(t)})
	if err != nil {
		t.Fatal(err)
	}
	h.must(func() error { return h.Export(h.file) })
	far := filepath.Join(dir, "far")
	if err := os.Mkdir(far, 0o755); err != nil {
		t.Fatal(err)
	}
	remote := "/mnt" + strings.TrimPrefix(e.Path, h.Roots)
	server, _, _ := strings.Cut(strings.TrimPrefix(testnfs.URL, "nfs://"), "/")
	if out, err := exec.Command("mount", "-t", "nfs", "-o", "nfsv4,ro,noac", server+":"+remote,
		far).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v: %s", remote, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-N", far).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	program := findProgram(t, far)
	c, _ := daemonAt(t, dir, fmt.Sprintf("permit {\n  mounts = [\"nullfs:%s\"]\n}\n", far))
	spec := client.TaskSpec{ID: "far", Owner: "cli", Image: archive(t, greeting),
		Parameters: map[string]string{"GREETING": "x"},
		Args:       []string{"read", "/far" + program},
		Volumes:    []client.Mount{{Source: far, Target: "/far", ReadOnly: true}}}
	if _, err := c.Start(inTime(t), spec); err != nil {
		t.Fatal(err)
	}
	if err := awaitLog(c, "far"); err != nil {
		t.Fatal(err)
	}
	h.must(h.Unplug)
	time.Sleep(2 * time.Second) // it reads on, and waits
	return c, spec, h
}

// A shutdown of the host does not wait beyond its limit for what does not die. Its
// end is with the host's, whenever it comes.
func TestShutdownOfWhatDoesNotDie(t *testing.T) {
	c, spec, h := readsFromAfar(t, shortDir(t))
	plug := sync.OnceFunc(func() { h.must(h.Plug) })
	defer plug()
	r, err := c.Shutdown(inTime(t), client.ShutdownRequest{Limit: client.Duration(2 * time.Second)})
	if err != nil || !slices.Equal(r.Left, []string{spec.ID}) || len(r.Ended) > 0 {
		t.Errorf("%+v %v", r, err)
	}
	plug()
	if e, err := c.Wait(inTime(t), spec.ID); err != nil || !e.Host {
		t.Errorf("it ended as %+v %v", e, err)
	}
	for len(leftovers(t, c)) > 0 {
		time.Sleep(100 * time.Millisecond)
	}
}

// Processes that wait for a server which is away do not die of SIGKILL. Their
// task's end is told all the same, and its id is the next one's; they go when the
// server is back.
func TestProcessesThatDoNotDie(t *testing.T) {
	dir := shortDir(t)
	c, spec, h := readsFromAfar(t, dir)
	plug := sync.OnceFunc(func() { h.must(h.Plug) })
	defer plug()
	exit, err := c.Stop(inTime(t), "far", client.StopRequest{Timeout: client.Duration(time.Second)})
	if err != nil || exit.Signal != int(syscall.SIGKILL) || !strings.Contains(exit.Message, "its jail stays") {
		t.Fatalf("it ended with %+v: %v", exit, err)
	}
	if err := c.Destroy(inTime(t), "far", false); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(leftovers(t, c)["far"], "do not die") {
		time.Sleep(100 * time.Millisecond)
	}
	spec.Args, spec.Volumes = nil, nil
	if next, err := c.Start(inTime(t), spec); err != nil || next.Key != "far.2" {
		t.Fatalf("the next task: %+v %v", next, err)
	}
	if err := awaitLog(c, "far"); err != nil {
		t.Fatal(err)
	}
	endOne(t, c, "far")
	plug()
	for len(leftovers(t, c)) > 0 {
		time.Sleep(100 * time.Millisecond)
	}
	if left := mounts(t, filepath.Join(dir, "state")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// findProgram is the path of the image's program below a directory.
func findProgram(t *testing.T, dir string) string {
	t.Helper()
	for _, at := range []string{"/bin/prog", "/root/bin/prog", "/rootfs/bin/prog"} {
		if _, err := os.Stat(dir + at); err == nil {
			return at
		}
	}
	e, err := os.ReadDir(dir)
	t.Fatalf("no program in %v: %v", e, err)
	return ""
}
