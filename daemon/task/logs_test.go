package task

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/mount"
)

// logText takes a log as a text.
type logText struct{ strings.Builder }

func (*logText) Flush()      {}
func (*logText) Start(int64) {}

// aTask has a directory, and a manager that tells what it is told.
func aTask(t *testing.T, dir string, limit int64) (*Manager, *task, <-chan string) {
	t.Helper()
	told := make(chan string, 100)
	m := New(Host{Log: hclog.NewNullLogger(), Config: host.Config{Limits: host.Limits{LogSize: limit}},
		Tell: func(_, kind, message string, _ map[string]string) { told <- kind + ": " + message }})
	tk := &task{journal: &journal{dir: dir}, done: make(chan struct{})}
	tk.info.Spec.ID, tk.info.State = "one", client.Running
	return m, tk, told
}

// Where the disk is full a task goes on, its log says what is not in it, and its
// owner is told.
func TestLogOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	defer func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	}()
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: dir,
		Options: []string{"size=4194304"}}); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, tk, told := aTask(t, dir, 1<<30)
	theirs, err := m.newOutput(tk, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	const lineSize = 64
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
	if e := <-told; !strings.HasPrefix(e, "log: stdout: its output is lost") {
		t.Errorf("event %q", e)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	fill(1 << 10)
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	m.endOutputs(tk)
	b, err := os.ReadFile(tk.logFile("stdout"))
	if err != nil || !bytes.Contains(b, []byte("bytes that the task wrote here are lost")) ||
		!bytes.HasSuffix(b, line) {
		t.Errorf("%v, the log of %d bytes ends with %.300q", err, len(b), b[max(0, len(b)-300):])
	}
}

// The log of a task that an earlier version started: a file that its process writes
// to, which the daemon cuts.
func TestLogOfAnEarlierVersion(t *testing.T) {
	m, tk, _ := aTask(t, t.TempDir(), 1<<10)
	f, err := os.OpenFile(tk.logFile("stdout"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var w strings.Builder
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
		if err := r.copyAll(&w); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			m.reopenOutputs(tk)
			if err := m.trimLogs(tk); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := w.String(), "a\n"+strings.Repeat("b", 2000)+"\nc\n"; got != want {
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
	for n, want := range map[int]string{-1: "1\n2\n3a3b\n4\n5", 0: "", 1: "5", 2: "4\n5", 3: "3a3b\n4\n5",
		4: "2\n3a3b\n4\n5", 9: "1\n2\n3a3b\n4\n5"} {
		for _, files := range [][]*os.File{{old, now}, {nil, old, now}, {old, nil, now}, {old, empty, now},
			{old, now, nil}} {
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
	_, tk, _ := aTask(t, t.TempDir(), 1<<20)
	tk.info.Spec.Stdout, tk.info.Spec.Confined = filepath.Join(logs, ".web.stdout.fifo"), []string{base}
	read := func() (string, error) {
		l, err := tk.logDir("stdout")
		if err != nil {
			return "", err
		}
		var w logText
		err = l.copyTo(t.Context(), &w, -1, false, tk.done)
		return w.String(), errors.Join(err, l.close())
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
		"a FIFO":      func() error { return unix.Mkfifo(last, 0o600) },
		"a link":      func() error { return os.Symlink(secret, last) },
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
