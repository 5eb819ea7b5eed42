package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
)

// A task that clients write to reads from a pipe or a terminal of which the daemon has
// the other end. An upgraded daemon inherits that; what one that was killed held is
// closed: a pipe then ends, and the kernel sends the processes of a terminal SIGHUP.

// defaultTerm is TERM in a terminal of which the client does not say what it is.
const defaultTerm = "xterm"

// checkConsole refuses what cannot be had together.
func checkConsole(spec client.TaskSpec) error {
	if _, err := winsize(spec.Rows, spec.Cols); err != nil {
		return err
	}
	if spec.TTY && (spec.Stdout != "" || spec.Stderr != "") {
		return client.Invalid("a terminal and files for the output exclude each other")
	}
	return nil
}

// openInput opens what the process reads from.
func (m *Manager) openInput(t *task) (theirs *os.File, err error) {
	if !t.info.Spec.Interactive {
		return os.Open(os.DevNull)
	}
	theirs, ours, err := os.Pipe()
	if err == nil {
		t.setInput(ours)
	}
	return theirs, err
}

func (t *task) setInput(f *os.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.input = f
}

func (t *task) inputFile() *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.input
}

// closeInput ends the input of a task, or is for one that reads no more.
func (t *task) closeInput() {
	t.mu.Lock()
	f := t.input
	t.input = nil
	t.mu.Unlock()
	if f != nil {
		_ = f.Close() // a terminal's is closed with its output; of a pipe all was written
	}
}

func (m *Manager) startInTerminal(ctx context.Context, t *task, proc jail.Process) (int, error) {
	proc.Rows, proc.Cols = uint16(t.info.Spec.Rows), uint16(t.info.Spec.Cols) // as was checked
	pid, master, err := m.Jails.StartTTY(ctx, t.info.Jail, proc)
	if err != nil {
		return 0, err
	}
	t.setInput(master)
	return pid, m.keepTerminal(t, master)
}

// clients counts those who are attached to a task. The task's lock guards it.
type clients struct {
	n       int
	seen    bool          // one of Attach was there
	keep    bool          // and has the task kept
	changed chan struct{} // closed when one comes or goes; nil while nobody waits
}

// attend counts a client until it leaves; who only reads is none that is waited for.
func (t *task) attend(reads bool) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clients.n, t.clients.seen = t.clients.n+1, t.clients.seen || !reads
	wake(&t.clients.changed)
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.clients.n--
		wake(&t.clients.changed)
	})
}

// attachTime is how long a task that has ended waits for a client that is to attach.
const attachTime = 10 * time.Second

func (m *Manager) removeIfAsked(t *task) {
	if t.info.Spec.Remove {
		go m.removeAtEnd(t)
	}
}

// removeAtEnd removes a task that has ended when nobody is attached to it.
func (m *Manager) removeAtEnd(t *task) {
	late := time.After(attachTime)
	if !t.info.Spec.Attach {
		late = time.After(0)
	}
	for over := false; ; {
		t.mu.Lock()
		c := &t.clients
		gone, keep := c.n == 0 && (c.seen || over), c.keep
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		t.mu.Unlock()
		if keep {
			return
		}
		if gone {
			break
		}
		select {
		case <-changed:
		case <-late:
			over = true
		}
	}
	if err := m.destroy(context.Background(), t, false); err != nil {
		m.Log.Warn("a task that has ended is not removed", "task", t.id(), "error", err)
	}
}

// Attach takes what a client sends to a task's input, on the connection that connect
// makes of it, until the client goes. The task is not ended by that.
func (m *Manager) Attach(id string, connect func() (net.Conn, io.Reader, error)) error {
	t, err := m.find(id)
	if err != nil {
		return err
	}
	defer t.attend(false)()
	conn, in, err := connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	a := &attached{t: t, out: client.NewFrameWriter(conn), once: t.info.Spec.Attach}
	takeFrames(conn, in, a, m.Log.With("task", id))
	a.gone()
	return nil
}

// attached is one client of a task's input.
type attached struct {
	t    *task
	out  *client.FrameWriter
	once bool // the input ends with this client
}

func (a *attached) input(p []byte) error {
	f := a.t.inputFile()
	switch {
	case f == nil:
		return errors.New("the task has no input")
	case a.t.info.Spec.TTY:
		return typeIn(f, p)
	case len(p) > 0:
		_, err := f.Write(p)
		return err
	case !a.once: // other clients may have more
		return nil
	}
	a.t.closeInput()
	return a.out.Write(client.Stdin, nil)
}

func (a *attached) resize(p []byte) error {
	if !a.t.info.Spec.TTY {
		return nil
	}
	return setSize(a.t.inputFile(), p)
}

func (a *attached) signal(string) error {
	return errors.New("signals are not for the input of a task")
}

func (a *attached) leave() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.t.clients.keep = true
	wake(&a.t.clients.changed)
}

// gone ends the input of a client that was its only one.
func (a *attached) gone() {
	if a.once && !a.t.info.Spec.TTY {
		a.t.closeInput()
	}
}

// inputFDs names the environment variable that carries what tasks read from over an
// upgrade: KEY=DESCRIPTOR, with commas between them.
const inputFDs = "FREEJAIL_INPUT_FDS"

// KeepStreams runs what executes another program in this process's place, with the
// environment that leaves the inputs of tasks to it, and what they have written.
func (m *Manager) KeepStreams(env []string, replace func(env []string) error) error {
	var kept []string
	for _, t := range m.list() {
		f := t.inputFile()
		if f == nil || t.state() == client.Exited {
			continue
		}
		fd, err := dup(f)
		if err != nil { // a terminal that is closed just now, as its task has ended
			m.Log.Warn("the input of a task is not kept", "task", t.id(), "error", err)
			continue
		}
		defer unix.Close(fd)
		kept = append(kept, t.key()+"="+strconv.Itoa(fd))
	}
	if len(kept) > 0 {
		env = append(env, inputFDs+"="+strings.Join(kept, ","))
	}
	return m.keepOutputs(env, replace)
}

// dup returns a descriptor that another program inherits.
func dup(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd int
	var derr error
	err = raw.Control(func(from uintptr) { fd, derr = unix.FcntlInt(from, unix.F_DUPFD, 3) })
	return fd, errors.Join(err, derr)
}

// inheritInputs are the inputs of tasks that an upgraded daemon has left, by their keys.
func inheritInputs() (map[string]*os.File, error) {
	text := os.Getenv(inputFDs)
	if text == "" {
		return nil, nil
	}
	out := map[string]*os.File{}
	for entry := range strings.SplitSeq(text, ",") {
		key, number, _ := strings.Cut(entry, "=")
		fd, err := strconv.Atoi(number)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		}
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err != nil {
			return out, fmt.Errorf("%s: %s: %w", inputFDs, entry, err)
		}
		out[key] = os.NewFile(uintptr(fd), "input of "+key)
	}
	return out, os.Unsetenv(inputFDs)
}

// takeInput gives a task the input that an upgraded daemon has left for it.
func (m *Manager) takeInput(t *task) {
	m.mu.Lock()
	f := m.inputs[t.key()]
	delete(m.inputs, t.key())
	m.mu.Unlock()
	if f == nil {
		return
	}
	t.setInput(f)
	if t.info.Spec.TTY {
		if err := m.keepTerminal(t, f); err != nil {
			m.Log.Error("the output of a task is not kept", "task", t.id(), "error", err)
		}
	}
}

// dropStreams closes inputs that no task has taken, and the outputs, as each task has its own again.
func (m *Manager) dropStreams() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	files := m.outputs
	m.outputs = nil
	for f := range maps.Values(m.inputs) {
		files = append(files, f)
	}
	m.inputs = nil
	return closeAll(files...)
}
