package daemon

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
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
	_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, greeting), Args: []string{"flagged"},
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
