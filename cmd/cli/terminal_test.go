package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/freejail/freejail/daemon/client"
)

// insideTerminal is a program that says what its terminal is, and obeys lines.
func insideTerminal() int {
	show := func() {
		w, h, err := term.GetSize(0)
		group, gerr := unix.IoctlGetInt(0, unix.TIOCGPGRP)
		fmt.Printf("size %dx%d %v own session %t foreground %t %s\n", w, h, err, isLeader(), gerr == nil &&
			group == unix.Getpgrp(), os.Getenv("TERM"))
	}
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGWINCH, syscall.SIGINT)
	go func() {
		for s := range c {
			if s == syscall.SIGINT {
				fmt.Println("interrupted")
				continue
			}
			show()
		}
	}()
	show()
	fmt.Fprintln(os.Stderr, "standard error too")
	for {
		var word string
		if _, err := fmt.Scanln(&word); errors.Is(err, io.EOF) {
			fmt.Println("end of input")
			return 6
		}
		fmt.Println("read", word)
		if word == "die" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			os.Exit(9) // the first process of a container does not die of its own signal
		}
	}
}

func isLeader() bool {
	sid, err := unix.Getsid(0)
	return err == nil && sid == os.Getpid()
}

// terminal is a command line whose standard streams are a terminal.
type terminal struct {
	*attached
	master *os.File
	before *term.State
	leads  bool // the session, as it must to be told of a new size
}

// leader is a command line that has the terminal for its own.
func (h *testHost) leader(rows, cols uint16, args ...string) *terminal {
	return h.inTerminal(true, rows, cols, args...)
}

func (h *testHost) terminal(rows, cols uint16, args ...string) *terminal {
	return h.inTerminal(false, rows, cols, args...)
}

func (h *testHost) inTerminal(leads bool, rows, cols uint16, args ...string) *terminal {
	h.t.Helper()
	a := &terminal{attached: &attached{Cmd: h.command(args...), t: h.t}, leads: leads}
	a.Env = append(a.Env, "TERM=vt220")
	master, slave, err := pty.Open()
	check(h.t, err)
	check(h.t, pty.Setsize(master, &pty.Winsize{Rows: rows, Cols: cols}))
	a.master, a.Stdin, a.Stdout, a.Stderr = master, slave, slave, slave
	a.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: leads}
	a.before, err = term.GetState(int(slave.Fd()))
	check(h.t, err)
	check(h.t, a.Start())
	go func() { _, _ = io.Copy(a.attached, master) }() // until it is closed
	h.t.Cleanup(func() { master.Close(); slave.Close() })
	return a
}

func (a *terminal) types(text string) {
	a.t.Helper()
	_, err := a.master.WriteString(text)
	check(a.t, err)
}

// isRestored wants the terminal as it was. FreeBSD takes it from all when the leader of its
// session ends.
func (a *terminal) isRestored() {
	a.t.Helper()
	if a.leads && runtime.GOOS == "freebsd" {
		return
	}
	if now, err := term.GetState(int(a.Stdin.(*os.File).Fd())); err != nil || *now != *a.before {
		a.t.Errorf("%q: the terminal is left as %+v, it was %+v: %v", a.Args[1:], now, a.before, err)
	}
}

func (a *terminal) ends(code int, texts ...string) {
	a.t.Helper()
	a.attached.ends(code)
	for _, text := range texts { // what it wrote may still be on the way
		a.says(text)
	}
	a.isRestored()
}

// A terminal of run or exec is as docker's: of the size of the client's, also when that
// changes; Ctrl-C and Ctrl-D are the program's; its end is the client's.
func TestTerminals(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("t%d", os.Getpid())
	h.gives(0, nil, "run", "-d", "--name", id, "prog", "wait")
	for name, args := range map[string][]string{
		"run":  {"run", "-it", "--rm", "prog", "terminal"},
		"exec": {"exec", "-it", id, "/bin/prog", "inside", "terminal"},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.of(t)
			a := h.leader(33, 101, args...)
			want := "vt220"
			if name == "exec" {
				want = "xterm"
			}
			a.says("size 101x33 <nil> own session true foreground true " + want)
			a.says("standard error too")
			check(t, pty.Setsize(a.master, &pty.Winsize{Rows: 20, Cols: 70}))
			a.says("size 70x20")
			a.types("hello\r")
			a.says("read hello")
			a.types("\x03")
			a.says("interrupted")
			a.types("\x04")
			a.ends(6, "end of input")
		})
	}
	h.gives(0, nil, "rm", "-f", id)
	if list := decoded[[]client.Task](h, "ps", "-a"); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}

// Whatever ends the client, its terminal is as before.
func TestTerminalIsRestored(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("s%d", os.Getpid())
	killed := h.terminal(24, 80, "run", "-it", "--rm", "--name", id+"k", "prog", "terminal")
	killed.says("size 80x24")
	killed.types("die\r")
	_ = killed.Wait() // 137, or 9 where the kernel spares it
	killed.isRestored()

	detached := h.terminal(24, 80, "run", "-it", "--rm", "--name", id+"d", "prog", "terminal")
	detached.says("size 80x24")
	detached.types("\x10\x11")
	detached.ends(0, "freejail attach "+id+"d")
	again := h.terminal(30, 90, "attach", "--detach-keys", "ctrl-x,x", id+"d")
	again.says("size 90x30")
	again.types("\x10\x11\r") // no keys of its own
	again.types("\x18x")
	again.ends(0, "detached")

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		name := fmt.Sprintf("%s%d", id, sig)
		a := h.terminal(24, 80, "run", "-it", "--name", name, "prog", "terminal")
		a.says("size 80x24")
		check(t, a.Process.Signal(sig))
		if _ = a.Wait(); sig != syscall.SIGTERM && a.ProcessState.ExitCode() != 128+int(sig) { // the task's own code
			t.Errorf("%s: exit code %d", sig, a.ProcessState.ExitCode())
		}
		a.isRestored()
		h.gives(0, nil, "rm", "-f", name)
	}

	// A daemon that goes ends the command, and the terminal of a task.
	session := h.terminal(24, 80, "exec", "-it", id+"d", "/bin/prog", "inside", "terminal")
	session.says("size 80x24")
	upgraded := h.terminal(24, 80, "attach", id+"d")
	upgraded.says("size 80x24")
	h.gives(0, nil, "daemon", "--upgrade")
	session.ends(exitUnknown)
	upgraded.types("after\r")
	upgraded.says("read after")
	upgraded.types("\x04")
	upgraded.ends(6)
	for began := time.Now(); len(decoded[[]client.Task](h, "ps", "-a")) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("the task is not removed")
		}
	}
}

// Without a terminal input comes from a pipe, and the streams are apart.
func TestInput(t *testing.T) {
	h := newHost(t, "")
	if r := h.fed("through\n", "run", "-i", "--rm", "prog", "cat"); r.code != 0 || r.out != "through\n" {
		t.Errorf("run -i: %+v", r)
	}
	if r := h.fed("not read", "run", "--rm", "prog", "cat"); r.code != 0 || r.out != "" {
		t.Errorf("run without -i: %+v", r)
	}
	if r := h.fed("not read", "exec", "-i=false", "x", "y"); r.code != exitUnknown {
		t.Errorf("exec of no task: %+v", r)
	}
	large := strings.Repeat("0123456789abcdef", 1<<16)
	if r := h.fed(large, "run", "-i", "--rm", "prog", "cat"); r.code != 0 || r.out != large {
		t.Errorf("1 MiB: %d, %d bytes", r.code, len(r.out))
	}
	if r := h.fed("in a terminal\n", "run", "-it", "--rm", "prog", "terminal"); r.code != 6 ||
		!strings.Contains(r.out, "standard error too\r\n") || !strings.Contains(r.errout, "is not a terminal") {
		t.Errorf("run -it without a terminal: %+v", r)
	}
}

// The daemon removes a task of --rm whatever becomes of its client.
func TestRemovedAtItsEnd(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("q%d", os.Getpid())
	h.gives(0, []string{id}, "run", "-d", "--rm", "--name", id, "prog", "exit", "0")
	gone := func(id string) {
		t.Helper()
		for began := time.Now(); h.freejail("inspect", id).code == 0; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s is not removed", id)
			}
		}
	}
	gone(id)
	a := h.attach("run", "--rm", "--name", id+"k", "prog", "wait")
	a.says("greeting")
	check(t, a.Process.Kill())
	_ = a.Wait() // it was killed
	h.gives(0, nil, "daemon", "--upgrade")
	h.gives(0, []string{"running"}, "ps")
	h.gives(0, nil, "stop", id+"k")
	gone(id + "k")
}

// A client without a terminal passes signals on, and shows what they have the task write.
func TestSignalsAreForwarded(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("f%d", os.Getpid())
	a := h.attach("run", "--rm", "--name", id, "prog", "stubborn")
	a.says("here")
	check(t, a.Process.Signal(syscall.SIGUSR1))
	a.says("user defined signal 1")
	check(t, a.Process.Signal(syscall.SIGTERM))
	a.says("terminated")
	h.gives(0, nil, "rm", "-f", id)
	a.ends(128 + int(syscall.SIGKILL))
	b := h.attach("run", "--rm", "--name", id+"b", "prog", "wait")
	b.says("greeting")
	check(t, b.Process.Signal(syscall.SIGTERM))
	b.ends(3, "bye\n")

	// Who attaches to a task of another client ends it likewise.
	h.gives(0, nil, "run", "-d", "--name", id+"c", "prog", "stubborn")
	c := h.attach("attach", id+"c")
	for c.lacks("user defined signal 1") {
		h.gives(0, nil, "kill", "-s", "USR1", id+"c")
	}
	check(t, c.Process.Signal(syscall.SIGTERM))
	c.says("terminated")
	h.gives(0, nil, "rm", "-f", id+"c")
	c.ends(128 + int(syscall.SIGKILL))
}

// A program that is not there, or cannot be executed, is told as shells do.
func TestProgramsThatAreNotExecuted(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("n%d", os.Getpid())
	h.gives(0, nil, "run", "-d", "--name", id, "prog", "wait")
	for program, code := range map[string]int{"/nothere": 127, "nothere": 127, "/bin": 126} {
		h.gives(code, nil, "run", "--entrypoint", program, "prog")
		h.gives(code, nil, "run", "-it", "--entrypoint", program, "prog")
		h.gives(code, nil, "exec", id, program)
		h.gives(code, nil, "exec", "-t", id, program)
	}
	h.gives(exitUnknown, []string{"not on this host"}, "run", "nothere")
	h.gives(0, nil, "rm", "-f", id)
}

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string]string{"": "", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-],d": "\x1dd", "a": "a"} {
		if keys, err := parseKeys(text); err != nil || string(keys) != want {
			t.Errorf("%q: %q %v", text, keys, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-pp", "ab", "ctrl-1", ","} {
		if _, err := parseKeys(text); err == nil {
			t.Errorf("%q is taken for keys", text)
		}
	}
	for typed, want := range map[string]string{"ab\x10\x11cd": "ab", "a\x10\x10\x11": "a\x10", "a\x10b": "a\x10b",
		"\x11\x10": "\x11\x10", "abc": "abc"} {
		for _, chunk := range []int{1, 100} {
			d := &detacher{Reader: io.MultiReader(pieces(typed, chunk)...), keys: []byte("\x10\x11")}
			if got, err := io.ReadAll(d); string(got) != want || errors.Is(err, errDetached) != strings.Contains(typed,
				"\x10\x11") {
				t.Errorf("%q: %q %v", typed, got, err)
			}
		}
	}
}

func pieces(text string, size int) (out []io.Reader) {
	for len(text) > 0 {
		n := min(size, len(text))
		out, text = append(out, strings.NewReader(text[:n])), text[n:]
	}
	return out
}

// Output that is not read blocks nobody but the task, and none of it is lost.
func TestSlowReader(t *testing.T) {
	h := newHost(t, "")
	cmd := h.command("run", "--rm", "prog", "many")
	r, w, err := os.Pipe()
	check(t, err)
	cmd.Stdout = w
	check(t, cmd.Start())
	check(t, w.Close())
	time.Sleep(500 * time.Millisecond)
	h.gives(0, nil, "ps")
	b, err := io.ReadAll(r)
	check(t, errors.Join(err, cmd.Wait(), r.Close()))
	if len(b) != manyLines*len("line 0000000\n") || !strings.HasSuffix(string(b), fmt.Sprintf("line %07d\n", manyLines-1)) {
		t.Errorf("%d bytes", len(b))
	}
}

const manyLines = 100_000

// Input that may be lost with a daemon is not lost in silence.
func TestInputOverAnUpgrade(t *testing.T) {
	h, id := newHost(t, ""), fmt.Sprintf("i%d", os.Getpid())
	a := h.attach("run", "-i", "--rm", "--name", id, "prog", "cat")
	check(t, writeTo(a.stdin, "before\n"))
	a.says("before")
	b := h.attach("run", "-i", "--rm", "--name", id+"b", "prog", "wait")
	b.says("greeting")
	check(t, b.stdin.Close())
	d := h.attach("run", "-i", "-d", "--name", id+"d", "prog", "cat")
	d.ends(0)
	time.Sleep(time.Second) // until the daemon has passed on the end
	h.gives(0, nil, "daemon", "--upgrade")
	a.ends(exitUnknown, "some of which may be lost: the task is stopped")
	h.gives(0, nil, "stop", id+"b")
	b.ends(3, "bye\n")
	if task := decoded[client.Task](h, "inspect", id+"d"); task.State != client.Running {
		t.Errorf("its input has ended with the daemon: %+v", task.Exit)
	}
	h.gives(0, nil, "rm", "-f", id+"d")
}

func writeTo(w any, text string) error {
	_, err := io.WriteString(w.(io.Writer), text)
	return err
}
