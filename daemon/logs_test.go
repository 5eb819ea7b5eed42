package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/mount"
)

// lineSize is of each line that a task of these tests writes: its number.
const lineSize = 64

func writeLines(n int) int {
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for i := range n {
		if _, err := fmt.Fprintf(w, "%0*d\n", lineSize-1, i); err != nil {
			return 1
		}
	}
	if w.Flush() != nil {
		return 1
	}
	return 0
}

// numbered checks that lines come one after the other.
type numbered struct {
	part        []byte
	lines       int
	first, last int
	wrong       []string
	missing     int
}

func (n *numbered) Write(p []byte) (int, error) {
	n.part = append(n.part, p...)
	for {
		line, rest, found := bytes.Cut(n.part, []byte("\n"))
		if !found {
			return len(p), nil
		}
		i, err := strconv.Atoi(string(line))
		switch {
		case err != nil || len(line) != lineSize-1:
			n.wrong = append(n.wrong, string(line))
		case n.lines == 0:
			n.first = i
		case i <= n.last:
			n.wrong = append(n.wrong, fmt.Sprintf("%d after %d", i, n.last))
		default:
			n.missing += i - n.last - 1
		}
		if err == nil {
			n.last = i
		}
		n.lines++
		n.part = rest
	}
}

// complete wants lines up to the last of all, the first ones may be away.
func (n *numbered) complete(t *testing.T, what string, all int) {
	t.Helper()
	if len(n.wrong) > 0 || n.missing > 0 || len(n.part) > 0 || n.last != all-1 {
		t.Errorf("%s: %d lines from %d to %d of %d, %d missing, %d bytes left, wrong: %.5q", what, n.lines, n.first, n.last, all, n.missing, len(n.part), n.wrong)
	}
}

func startLines(t *testing.T, c *client.Client, n int) {
	t.Helper()
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, `{"schemaVersion":1}`), Command: "lines", Args: []string{strconv.Itoa(n)}}); err != nil {
		t.Fatal(err)
	}
}

func waitAndLogs(t *testing.T, c *client.Client, tail int) *numbered {
	t.Helper()
	if e, err := c.Wait(t.Context(), "one"); err != nil || e.Known && e.Code != 0 {
		t.Fatalf("the task: %+v %v", e, err)
	}
	out := &numbered{}
	if err := c.Logs(t.Context(), "one", "stdout", false, tail, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// However fast a task writes, its log is within its size at every moment, has the
// end of what was written, and who follows it gets all.
func TestLogStaysWithinItsSize(t *testing.T) {
	const limit, lines = 1 << 20, 1 << 20 // 64 MiB
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	followed, follower := &numbered{}, make(chan error, 1)
	go func() { follower <- c.Logs(t.Context(), "one", "stdout", true, -1, followed) }()
	var over atomic.Int64
	watching, watched := context.WithCancel(t.Context())
	go func() {
		for watching.Err() == nil {
			if n := sizeOf(filepath.Join(dir, "state/tasks/one")); n > limit {
				over.Store(n)
			}
		}
	}()
	out := waitAndLogs(t, c, -1)
	watched()
	out.complete(t, "what is kept", lines)
	if kept := out.lines * lineSize; kept < limit/2 || kept > limit || over.Load() > 0 {
		t.Errorf("%d bytes are kept of a log of %d, and %d were", kept, limit, over.Load())
	}
	if err := <-follower; err != nil {
		t.Error(err)
	}
	followed.complete(t, "who followed", lines)
	if _, err := os.Stat(filepath.Join(dir, "state/tasks/one/stdout.log.fifo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the FIFO of a task that has ended: %v", err)
	}
	if last := waitAndLogs(t, c, 10000); last.lines != 10000 {
		t.Errorf("the last 10000 lines, of which some are in the older file, are %d", last.lines)
	}
}

func sizeOf(dir string) (sum int64) {
	for _, name := range []string{"stdout.log.1", "stdout.log"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
			sum += fi.Size()
		}
	}
	return sum
}

// What fits is kept.
func TestLogKeepsWhatFits(t *testing.T) {
	const lines = 1 << 20 / lineSize
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	out := waitAndLogs(t, c, -1)
	if out.complete(t, "a log as large as its limit", lines); out.first != 0 {
		t.Errorf("it begins with line %d", out.first)
	}
}

// A client that follows keeps up with a log that is smaller than what is read of
// the FIFO at once.
func TestLogThatIsSmall(t *testing.T) {
	const lines = 1 << 20 / lineSize
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "4KiB" }`)
	startLines(t, c, lines)
	followed := &numbered{}
	if err := c.Logs(t.Context(), "one", "stdout", true, -1, followed); err != nil {
		t.Fatal(err)
	}
	followed.complete(t, "who followed", lines)
	if out := waitAndLogs(t, c, -1); out.lines > 4<<10/lineSize || out.lines < 2<<10/lineSize {
		t.Errorf("%d lines are kept", out.lines)
	}
}

type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

// A task does not stand still for a client that follows it and reads nothing.
func TestLogWithAClientThatStandsStill(t *testing.T) {
	const lines = 1 << 20
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	s, ended := make(stuck), make(chan error, 1)
	go func() { ended <- c.Logs(t.Context(), "one", "stdout", true, -1, s) }()
	waitAndLogs(t, c, -1).complete(t, "what is kept", lines)
	close(s)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An upgrade under way loses nothing and doubles nothing; a daemon that is killed
// loses at most what it had just read.
func TestLogOverADaemonsLife(t *testing.T) {
	const lines, times = 2 << 20, 3 // 128 MiB
	for _, how := range []string{"upgrade", "end", "kill"} {
		t.Run(how, func(t *testing.T) {
			dir := shortDir(t)
			const conf = `limits { log_size = "1GiB" }`
			c, stop := daemonAt(t, dir, conf)
			startLines(t, c, lines)
			for range times {
				before := sizeOf(filepath.Join(dir, "state/tasks/one"))
				for sizeOf(filepath.Join(dir, "state/tasks/one")) < before+4<<20 && runs(t, c) {
					time.Sleep(time.Millisecond)
				}
				switch how {
				case "upgrade":
					if _, err := c.Upgrade(t.Context(), ""); err != nil {
						t.Fatal(err)
					}
				case "end":
					stop(syscall.SIGTERM)
					c, stop = daemonAt(t, dir, conf)
				case "kill":
					stop(syscall.SIGKILL)
					c, stop = daemonAt(t, dir, conf)
				}
			}
			out := waitAndLogs(t, c, -1)
			if how == "kill" {
				if out.missing > times*64<<10/lineSize || len(out.wrong) > times || out.last != lines-1 {
					t.Errorf("%d of %d lines are missing, to %d, wrong: %.5q", out.missing, lines, out.last, out.wrong)
				}
				return
			}
			if out.complete(t, how, lines); out.first != 0 {
				t.Errorf("it begins with line %d", out.first)
			}
		})
	}
}

// runs is false where all has been written before it was looked at.
func runs(t *testing.T, c *client.Client) bool {
	t.Helper()
	task, err := c.Task(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	return task.State == client.Running
}

// aTask has a directory and a daemon that runs nothing else.
func aTask(t *testing.T, dir string, limit int64) (*Daemon, *task) {
	t.Helper()
	d := &Daemon{log: hclog.NewNullLogger(), events: newEventLog(), tasks: map[string]*task{}, cfg: host.Config{Limits: host.Limits{LogSize: limit}}}
	tk := &task{journal: &journal{dir: dir}, done: make(chan struct{})}
	tk.info.Spec.ID, tk.info.State = "one", client.Running
	return d, tk
}

// Where the disk is full a task goes on, its log says what is not in it, and its
// owner is told.
func TestLogOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := shortDir(t)
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: dir, Options: []string{"size=4194304"}}); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, tk := aTask(t, dir, 1<<30)
	theirs, err := d.newOutput(tk, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", lineSize-1) + "\n")
	fill := func(n int) {
		t.Helper()
		for range n / lineSize {
			if _, err := theirs.Write(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(8 << 20)
	for {
		if events, _ := d.events.since(0); len(events) > 0 {
			if e := events[0]; e.Kind != "log" || !strings.Contains(e.Message, "stdout: what it writes is lost") {
				t.Errorf("event %+v", e)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	fill(1 << 10)
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	d.endOutputs(tk)
	b, err := os.ReadFile(tk.logFile("stdout"))
	if err != nil || !bytes.Contains(b, []byte("bytes that the task wrote here are lost")) || !bytes.HasSuffix(b, line) {
		t.Errorf("%v, the log of %d bytes ends with %.300q", err, len(b), b[max(0, len(b)-300):])
	}
}

// What a task makes of Nomad's directory of logs, or puts in place of a log, is
// neither waited for nor followed.
func TestHostileLogDirectory(t *testing.T) {
	base := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	logs := filepath.Join(base, "alloc", "logs")
	for _, err := range []error{os.WriteFile(secret, []byte("of the host"), 0o600), os.MkdirAll(logs, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, tk := aTask(t, t.TempDir(), 1<<20)
	tk.info.Spec.Stdout, tk.info.Spec.Confined = filepath.Join(logs, ".web.stdout.fifo"), []string{base}
	read := func() (string, error) {
		l, err := tk.logDir("stdout")
		if err != nil {
			return "", err
		}
		w := httptest.NewRecorder()
		err = l.copyTo(t.Context(), w, -1, false, tk.done)
		return w.Body.String(), errors.Join(err, l.close())
	}
	for name, put := range map[string]func(path string) error{
		"web.stdout.1":  func(p string) error { return os.WriteFile(p, []byte("one "), 0o600) },
		"web.stdout.10": func(p string) error { return os.WriteFile(p, []byte("ten"), 0o600) },
		"web.stdout.9":  func(p string) error { return os.WriteFile(p, []byte("nine "), 0o600) },
		"web.stdout.x":  func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		if err := put(filepath.Join(logs, name)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := read(); err != nil || out != "one nine ten" {
		t.Errorf("%q %v", out, err)
	}
	last := filepath.Join(logs, "web.stdout.11")
	for name, put := range map[string]func() error{
		"a FIFO": func() error { return unix.Mkfifo(last, 0o600) }, "a link": func() error { return os.Symlink(secret, last) },
		"a directory": func() error { return os.Mkdir(last, 0o700) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if out, err := read(); err == nil || strings.Contains(out, "host") {
			t.Errorf("%s: %q %v", name, out, err)
		}
		if err := os.Remove(last); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Rename(logs, logs+".away"), os.Symlink(filepath.Dir(secret), logs)); err != nil {
		t.Fatal(err)
	}
	if out, err := read(); err == nil {
		t.Errorf("a directory that is a link out of the task's: %q", out)
	}
}

// The log of a task that an earlier version started: a file that its process writes
// to, which the daemon cuts.
func TestLogOfAnEarlierVersion(t *testing.T) {
	d, tk := aTask(t, t.TempDir(), 1<<10)
	f, err := os.OpenFile(tk.logFile("stdout"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	l, err := tk.logDir("stdout")
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.begin(-1)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"a\n", strings.Repeat("b", 2000) + "\n", "c\n"} {
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := r.copyAll(w); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			d.reopenOutputs(tk)
			if err := d.trimLogs(tk); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := w.Body.String(), "a\n"+strings.Repeat("b", 2000)+"\nc\n"; got != want {
		t.Errorf("followed: %q", got)
	}
	if err := errors.Join(f.Close(), l.close(), closeAll(r.file)); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(tk.logFile("stdout")); err != nil || fi.Size() > 1024 {
		t.Errorf("the log: %v %v", fi, err)
	}
}

func TestTailOf(t *testing.T) {
	dir := t.TempDir()
	open := func(name, text string) *os.File {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	old, now, empty := open("old", "1\n2\n3a"), open("now", "3b\n4\n5"), open("empty", "")
	for n, want := range map[int]string{-1: "1\n2\n3a3b\n4\n5", 0: "", 1: "5", 2: "4\n5", 3: "3a3b\n4\n5", 4: "2\n3a3b\n4\n5", 9: "1\n2\n3a3b\n4\n5"} {
		for _, files := range [][]*os.File{{old, now}, {nil, old, now}, {old, nil, now}, {old, empty, now}, {old, now, nil}} {
			i, at, err := tailOf(files, n)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for j := i; j < len(files); j++ {
				if files[j] == nil {
					continue
				}
				b, err := io.ReadAll(io.NewSectionReader(files[j], at, 1<<20))
				if err != nil {
					t.Fatal(err)
				}
				got, at = got+string(b), 0
			}
			if got != want {
				t.Errorf("the last %d lines are %q, want %q", n, got, want)
			}
		}
	}
}
