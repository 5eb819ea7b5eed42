package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/task"
)

// attached is a command line that runs beside others.
type attached struct {
	*exec.Cmd
	t     *testing.T
	stdin io.Closer

	mu  sync.Mutex
	out bytes.Buffer
}

func (a *attached) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.Write(p)
}

func (h *testHost) attach(args ...string) *attached {
	h.t.Helper()
	a := &attached{Cmd: h.command(args...), t: h.t}
	a.Stdout, a.Stderr = a, a
	var err error
	a.stdin, err = a.StdinPipe()
	check(h.t, err)
	check(h.t, a.Start())
	return a
}

// says waits until the command has printed a text.
func (a *attached) says(text string) {
	a.t.Helper()
	for began := time.Now(); a.lacks(text); {
		if time.Since(began) > time.Minute {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.t.Fatalf("%q: no %q in %s", a.Args[1:], text, a.out.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// lacks tells whether the command has not printed a text yet.
func (a *attached) lacks(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !strings.Contains(a.out.String(), text)
}

// ends waits for the command's end.
func (a *attached) ends(code int, texts ...string) {
	a.t.Helper()
	_ = a.Wait() // the code tells
	if a.ProcessState.ExitCode() != code {
		a.t.Errorf("%q: exit code %d, want %d: %s", a.Args[1:], a.ProcessState.ExitCode(), code, a.out.String())
	}
	for _, text := range texts {
		if !strings.Contains(a.out.String(), text) {
			a.t.Errorf("%q: no %q in %s", a.Args[1:], text, a.out.String())
		}
	}
}

// Who is attached when the daemon is upgraded goes on where nothing is lost by it,
// and else is told what happened and what to do; and so is who interrupts.
func TestAttachedOverAnUpgrade(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("a%d", os.Getpid())
	run := h.attach("run", "--name", id, "prog", "wait")
	run.says("greeting")
	events := h.attach("events", "-f")
	events.says("started")
	logs := h.attach("logs", "-f", id)
	logs.says("greeting")
	session := h.attach("exec", id, "/bin/prog", "inside", "say", "hello")
	session.ends(0, "hello")
	session = h.attach("exec", id, "/bin/prog", "inside", "stubborn")
	session.says("here")
	h.gives(0, []string{"the daemon is version"}, "daemon", "--upgrade")
	session.ends(exitUnknown, "the command was ended: the daemon is being upgraded")
	events.says("waiting for the next")
	h.gives(0, nil, "stop", id)
	run.ends(3, "bye\n")
	logs.ends(0, "bye\n")
	for _, a := range []*attached{run, logs} {
		if text := a.out.String(); strings.Count(text, "greeting") != 1 ||
			strings.Count(text, "waiting for the next") > 1 {
			t.Errorf("%q: not everything once: %s", a.Args[1:], text)
		}
	}
	events.says("exit code 3")
	again := h.attach("events", "-f")
	again.says("exit code 3")
	for _, a := range []*attached{events, again} {
		check(t, a.Process.Signal(syscall.SIGINT))
		a.ends(128+int(syscall.SIGINT), "freejail: interrupted")
	}
	for _, a := range []*attached{run, events, logs, session, again} {
		if text := a.out.String(); strings.Contains(text, "EOF") || strings.Contains(text, "context") {
			t.Errorf("%q: no plain words: %s", a.Args[1:], text)
		}
	}
}

// A stop that has begun goes on without its client, and without the daemon that began it.
func TestStopOutlivesItsClient(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("o%d", os.Getpid())
	run := h.attach("run", "--name", id, "prog", "stubborn")
	run.says("here")
	stop := h.attach("stop", "-t", "2", id)
	run.says("terminated")
	check(t, stop.Process.Kill())
	_ = stop.Wait() // it was killed
	run.ends(128 + int(syscall.SIGKILL))
	h.gives(0, nil, "images", "import", h.image("deaf", "STOPSIGNAL SIGTERM timeout=3s\nCMD [\"stubborn\"]\n"))
	again := h.attach("run", "--rm", "--name", id+"u", "deaf")
	again.says("here")
	left := h.attach("run", "-d", "--name", id+"l", "prog", "stubborn")
	left.ends(0)
	follow := h.attach("logs", "-f", id+"l")
	follow.says("here")
	stop = h.attach("stop", "-t", "3", id+"l")
	check(t, again.Process.Signal(syscall.SIGTERM))
	again.says("terminated")
	follow.says("terminated")
	check(t, stop.Process.Kill())
	_ = stop.Wait() // it was killed
	h.gives(0, []string{"the daemon is version"}, "daemon", "--upgrade")
	again.ends(128 + int(syscall.SIGKILL))
	h.gives(0, []string{"137"}, "wait", id+"l")
}

// Who waits for a task waits for the daemon that comes, too, and shows all that the
// task writes; without one it can be interrupted.
func TestAttachedOverARestart(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("r%d", os.Getpid())
	run := h.attach("run", "--rm", "--name", id, "prog", "wait")
	run.says("greeting")
	deaf := h.attach("run", "--name", id+"d", "prog", "stubborn")
	deaf.says("here")
	logs := h.attach("logs", "-f", id)
	logs.says("greeting")
	alone := h.attach("run", "--name", id+"i", "prog", "wait")
	alone.says("greeting")
	stop := h.attach("stop", "-t", "5s", id+"d") // over which the daemon ends
	deaf.says("terminated")
	h.end()
	for _, a := range []*attached{run, deaf, logs, stop, alone} {
		a.says("waiting for the next")
	}
	check(t, alone.Process.Signal(syscall.SIGINT))
	alone.ends(exitNoDaemon, "task "+id+"i may run on")
	h.begin()
	stop.ends(0)
	_ = deaf.Wait() // how it ended is known where the kernel tells a daemon that is not the parent
	h.gives(0, nil, "stop", id, id+"i")
	_ = run.Wait() // as above
	logs.ends(0, "bye\n")
	for _, a := range []*attached{run, logs} {
		if text := a.out.String(); strings.Count(text, "greeting") != 1 || strings.Count(text, "bye\n") != 1 ||
			strings.Count(text, "waiting for the next") != 1 {
			t.Errorf("%q: not everything once: %s", a.Args[1:], text)
		}
	}
	h.gives(app.Failed, []string{id}, "inspect", id) // it was removed
}

// A log that was moved since has no known place to go on from: that is said once,
// and the task is kept, with what was not shown.
func TestAttachedToALogThatMoved(t *testing.T) {
	h, id := newHost(t, "limits {\n  log_size = \"1KiB\"\n}\n"), fmt.Sprintf("m%d", os.Getpid())
	run := h.attach("run", "--rm", "--name", id, "prog", "wait", strings.Repeat("x", 2000))
	run.says("greeting")
	h.gives(0, nil, "daemon", "--upgrade")
	h.gives(0, nil, "stop", id)
	run.ends(3, "freejail logs "+id, "freejail rm "+id)
	if text := run.out.String(); strings.Count(text, "what the task wrote since") != 1 {
		t.Errorf("it is said more than once: %s", text)
	}
	h.gives(0, []string{"bye"}, "logs", id)
	h.gives(0, nil, "rm", id)
}

// A host that is shut down says so, and how its daemon is started again.
func TestShutDownIsSaid(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "shutdown")
	r := h.freejail("doctor")
	if !strings.Contains(r.out, "-> "+task.StartAgain+"\n") || strings.Contains(r.out, "error    storage") {
		t.Errorf("doctor: %s", r.out)
	}
	h.gives(app.Failed, []string{"no upgrade: the host is being shut down"}, "daemon", "--upgrade")
}
