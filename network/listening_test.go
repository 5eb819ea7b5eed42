package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// deadPort is one of a task that does not listen, which was found by who asked for it.
func deadPort(t *testing.T, h *holder) (at string, task Task) {
	t.Helper()
	port, to := freePort(t, "tcp"), freePort(t, "tcp")
	task = published("a", loopback, "tcp", port, to, 1)
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	at = fmt.Sprintf("127.0.0.1:%d", port)
	for {
		_, err := asked(t, at, "x")
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			awaitQuiet(t, h, task)
			return at, task
		case err == nil:
			t.Fatal("a port of a task that does not listen was answered")
		}
		time.Sleep(time.Millisecond)
	}
}

// awaitQuiet waits for the socket that takes the place of one which listened: who comes between the two is refused too.
func awaitQuiet(t *testing.T, h *holder, task Task) {
	t.Helper()
	h.mu.Lock()
	all := slices.Clone(h.has[task.Key])
	h.mu.Unlock()
	for _, k := range all {
		if fd, err := k.dup(); err != nil || fd >= 0 && unix.Close(fd) != nil {
			t.Fatal(fd, err)
		}
	}
}

func taskListens(t *testing.T, task Task) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", task.Published[0].To))
	if err != nil {
		t.Fatal(err)
	}
	accepting(t, l, echo)
}

// A child that is forked as a task refuses connections has its port's socket for a moment: the port is held all the same.
func TestQuietPortWhileAChildHasItsSocket(t *testing.T) {
	at := netip.AddrPortFrom(loopback, freePort(t, "tcp"))
	l, err := bindTCP(at, nil)
	if err != nil {
		t.Fatal(err)
	}
	child, err := inheritable(l)
	if err != nil {
		t.Fatal(err)
	}
	s, executes := &listening{at: at, l: l}, make(chan error, 1)
	go func() {
		time.Sleep(100 * time.Millisecond)
		executes <- unix.Close(child)
	}()
	s.hush(&relay{log: hclog.NewNullLogger(), name: at.String()}, l)
	if err := <-executes; err != nil {
		t.Fatal(err)
	}
	if s.quiet == nil {
		t.Error("nobody holds the port")
	}
	s.close()
}

func awaitAnswer(t *testing.T, at string) {
	t.Helper()
	for {
		got, err := asked(t, at, "x")
		if err == nil && got == "x" {
			return
		}
		// One that comes just before the end of listening is reset.
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%q %v", got, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestDeadPortIsRefused: a check of a port whose program is dead must fail, and nobody else can have the port.
func TestDeadPortIsRefused(t *testing.T) {
	h := testHolder(t)
	at, task := deadPort(t, h)
	for _, other := range []string{at, fmt.Sprintf(":%d", task.Published[0].First)} {
		if l, err := net.Listen("tcp4", other); err == nil && other == at {
			l.Close()
			t.Error("another program takes the port")
		} else if err == nil { // which FreeBSD allows at all times
			l.Close()
		}
	}
	if err := h.hold(published("b", loopback, "tcp", task.Published[0].First, 80, 1)); !errors.Is(err, errOfTask) {
		t.Error("another task takes the port:", err)
	}
	taskListens(t, task)
	awaitAnswer(t, at)
	h.free("a")
	if _, err := asked(t, at, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("a port that is free:", err)
	}
	_, _ = deadPort(t, h)
	h.free("a")
	if h.sockets != 0 || len(h.kept) != 0 {
		t.Errorf("%d sockets are left: %v", h.sockets, h.kept)
	}
}

// TestDeadPortIsKept has the next daemon take over one that does not listen.
func TestDeadPortIsKept(t *testing.T) {
	h, next := testHolder(t), testHolder(t)
	at, task := deadPort(t, h)
	err := h.pass(nil, func(env []string) error {
		if len(env) != 1 {
			return fmt.Errorf("environment %q", env)
		}
		var fd int
		if _, err := fmt.Sscanf(env[0], portFDs+"=%d", &fd); err != nil {
			return err
		}
		kept, err := unix.Dup(fd)
		if err != nil {
			return err
		}
		t.Setenv(portFDs, fmt.Sprint(kept))
		return next.hold(task)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(next.inherited) != 0 || os.Getenv(portFDs) != "" {
		t.Errorf("not taken over: %v", next.inherited)
	}
	h.free("a")
	if _, err := asked(t, at, "x"); err == nil { // by the next one, which does not know yet
		t.Error("a port of a task that does not listen was answered")
	}
	taskListens(t, task)
	awaitAnswer(t, at)
}

// TestConnectionsOutliveTheirPort: those there are go on while new ones are refused.
func TestConnectionsOutliveTheirPort(t *testing.T) {
	h := testHolder(t)
	to, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	task := published("a", loopback, "tcp", freePort(t, "tcp"), to.Addr().(*net.TCPAddr).AddrPort().Port(), 1)
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", task.Published[0].First)
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	served, err := to.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go echo(served)
	to.Close()
	for err = nil; !errors.Is(err, syscall.ECONNREFUSED); time.Sleep(time.Millisecond) {
		_, err = asked(t, at, "x")
	}
	if _, err = io.WriteString(c, "hello"); err == nil {
		_, err = io.ReadFull(c, make([]byte, 5))
	}
	if err != nil {
		t.Error("a connection that was there has ended:", err)
	}
	taskListens(t, task)
	awaitAnswer(t, at)
}
