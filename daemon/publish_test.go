package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// returned is what comes back from a port, of what is sent there.
func returned(text string, at ...string) error {
	for _, address := range at {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		buf := make([]byte, len(text))
		if _, err = c.Write([]byte(text)); err == nil {
			_, err = c.Read(buf)
		}
		if err = errors.Join(err, c.Close()); err != nil || string(buf) != text {
			return fmt.Errorf("%s: %q came back: %w", address, buf, err)
		}
	}
	return nil
}

func startPublished(t *testing.T, c *client.Client, id string, port int) (*client.Task, error) {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Manifest: `{"schemaVersion":1}`,
		Cmd: []string{"return", ":8080"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path, Network: "web",
		Publish: []client.Publication{{Port: port, To: 8080, Protocol: "tcp"}}})
}

// awaitReturned asks a task that has just begun until it listens.
func awaitReturned(t *testing.T, address string) {
	t.Helper()
	for {
		err := returned("x", address)
		if err == nil {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// usable skips a test on a host that cannot have a network.
func usable(t *testing.T, c *client.Client, name string) {
	t.Helper()
	list, err := c.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.Name == name && len(n.Problems) > 0 {
			t.Skip(n.Problems)
		}
	}
}

// wantCounted checks what is told of a task that was asked.
func wantCounted(t *testing.T, c *client.Client, task client.Task) {
	t.Helper()
	if n := task.Network; n == nil || n.Name != "web" || n.Addr4.String() != "10.211.3.2" || n.MAC == "" {
		t.Fatalf("network: %+v", task.Network)
	}
	list, err := c.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.Name == "web" && (n.Used != 1 || !slices.Equal(n.Tasks, []string{task.ID}) || len(n.Problems) > 0) {
			t.Errorf("%+v", n)
		}
	}
	u, err := c.Stats(t.Context(), task.ID)
	if err != nil || u.Traffic == nil || min(u.Traffic.BytesIn, u.Traffic.BytesOut, u.Traffic.PacketsIn) == 0 {
		t.Errorf("stats: %+v %v", u, err)
	}
	var out bytes.Buffer
	if err := c.Metrics(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"freejail_task_network_receive_bytes_total{group=\"\",job=\"\",name=\"\",namespace=\"\",task=\"" + task.ID + "\"} ",
		"freejail_published_sockets 2", `freejail_network_addresses_used{network="web"} 1`} {
		if !strings.Contains(out.String(), "\n"+want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}

// takeUntil tries to have a port until something has ended. It is an error if that succeeds.
func takeUntil(ended <-chan error, address string) error {
	for {
		if l, err := net.Listen("tcp", address); err == nil {
			return errors.Join(errors.New("another program takes the port meanwhile"), l.Close(), <-ended)
		}
		select {
		case err := <-ended:
			return err
		default:
		}
	}
}

// A published port is reached from the host by each of its addresses, seen and counted, nobody else's at any
// moment of an upgrade, and the task keeps its addresses.
func TestPublishedPort(t *testing.T) {
	ownNetwork(t)
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, testNetworks)
	usable(t, c, "web")
	id := fmt.Sprint("hold", os.Getpid())
	task, err := startPublished(t, c, id, 25081)
	if err != nil {
		t.Fatal(err)
	}
	awaitReturned(t, "127.0.0.1:25081")
	all := []string{"127.0.0.1:25081", "[::1]:25081", "10.211.3.1:25081", "[fd00:211:3::1]:25081"}
	if err := returned("hello", all...); err != nil {
		t.Error(err)
	}
	wantCounted(t, c, *task)

	for range 3 {
		ended := make(chan error, 1)
		go func() {
			_, err := c.Upgrade(t.Context(), client.UpgradeRequest{})
			ended <- err
		}()
		if err := takeUntil(ended, ":25081"); err != nil {
			t.Fatal(err)
		}
		if err := returned("hello", all...); err != nil {
			t.Error("after an upgrade:", err)
		}
	}
	stop(syscall.SIGKILL)
	c, _ = daemonAt(t, dir, testNetworks)
	again, err := c.Task(t.Context(), id)
	if err != nil || again.Network == nil || *again.Network != *task.Network {
		t.Errorf("the network after a crash: %+v %v", again, err)
	}
	if err := returned("hello", all...); err != nil {
		t.Error("after a crash:", err)
	}
	if _, err := startPublished(t, c, id+"-other", 25081); err == nil || !strings.Contains(err.Error(), "25081") {
		t.Error("a port of another task:", err)
	}
	if err := c.Destroy(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":25081")
	if err != nil {
		t.Fatal("the port is not free:", err)
	}
	defer l.Close()
	if _, err := startPublished(t, c, id+"-late", 25081); err == nil || !strings.Contains(err.Error(), "25081/tcp") {
		t.Error("a port of another program:", err)
	}
}
