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

func (h *host) attach(args ...string) *attached {
	h.t.Helper()
	a := &attached{Cmd: exec.Command(self(h.t), args...), t: h.t}
	a.Env = append(os.Environ(), asCLI+"=1", "FREEJAIL_SOCKET="+h.socket)
	a.Stdout, a.Stderr = a, a
	var err error
	a.stdin, err = a.StdinPipe()
	check(h.t, err)
	check(h.t, a.Start())
	return a
}

// says waits until the command has printed a text.
func (a *attached) says(text string) {
	for {
		a.mu.Lock()
		has := strings.Contains(a.out.String(), text)
		a.mu.Unlock()
		if has {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
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
	session.ends(exitFailed, "the command was ended: the daemon is being upgraded")
	logs.ends(exitFailed, "the daemon ended or was upgraded meanwhile", "goes on with another `freejail logs`")
	events.says("waiting for the next")
	h.gives(0, nil, "stop", id)
	run.ends(3, "freejail logs "+id)
	events.says("exit code 3")
	again := h.attach("events", "-f")
	again.says("exit code 3")
	for _, a := range []*attached{events, again} {
		check(t, a.Process.Signal(syscall.SIGINT))
		a.ends(exitInterrupted, "freejail: interrupted")
	}
	for _, a := range []*attached{run, events, logs, session, again} {
		if text := a.out.String(); strings.Contains(text, "EOF") || strings.Contains(text, "context") {
			t.Errorf("%q: no plain words: %s", a.Args[1:], text)
		}
	}
}
