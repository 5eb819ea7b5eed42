package jail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// ready waits until the program says so.
func (f *fixture) ready(r *os.File) *bufio.Reader {
	f.Helper()
	b := bufio.NewReader(r)
	if line, err := b.ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready") {
		f.Fatalf("the program says %q: %v", line, err)
	}
	return b
}

func (f *fixture) output(name string, p Process, r *os.File) (string, Exit) {
	f.Helper()
	pid, err := f.m.Exec(f.Context(), name, p)
	if err != nil {
		f.Fatal(err)
	}
	p.Stdout.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	return string(b), f.exit(pid)
}

// running makes a jail with a process in it.
func (f *fixture) running(s Spec) string {
	f.Helper()
	name := f.createSpec(s)
	_, r := f.start(name, "prog", "inside-term")
	f.ready(r)
	return name
}

func TestCredentialsAndNothingInherited(t *testing.T) {
	f := setup(t)
	t.Setenv("SECRET_OF_THE_DAEMON", "x")
	name := f.running(Spec{})
	p, r := f.process("/bin/prog", "inside-whoami")
	p.UID, p.GID, p.Groups, p.Env = 1001, 1002, []uint32{1003, 1004}, nil
	out, e := f.output(name, p, r)
	// FreeBSD lists the effective group among them or not, by version.
	if e.Code != 0 || out != "1001 1001 1002 1002 [1003 1004] 0 []\n" &&
		out != "1001 1001 1002 1002 [1002 1003 1004] 0 []\n" {
		t.Errorf("%q %+v", out, e)
	}
	p, r = f.process("/bin/prog", "inside-whoami")
	p.UID, p.GID, p.Env = 1001, 1002, nil
	out, e = f.output(name, p, r)
	if e.Code != 0 || out != "1001 1001 1002 1002 [] 0 []\n" && out != "1001 1001 1002 1002 [1002] 0 []\n" {
		t.Errorf("without groups: %q %+v", out, e)
	}
}

func TestRawSockets(t *testing.T) {
	f := setup(t)
	for allowed, params := range map[bool]map[string]string{
		false: {"ip4": "inherit"}, true: {"ip4": "inherit", "allow.raw_sockets": "true"},
	} {
		if f.m.Features()["backend"] == "runc" {
			delete(params, "ip4")
		}
		p, r := f.process("/bin/prog", "inside-raw")
		out, _ := f.output(f.running(Spec{Params: params}), p, r)
		if (out == "<nil>\n") != allowed {
			t.Errorf("allowed %v: %s", allowed, out)
		}
	}
}

func TestTerminal(t *testing.T) {
	f := setup(t)
	name := f.running(Spec{})
	p := Process{Args: []string{"prog", "inside-tty"}, Env: []string{"PATH=/bin"}, Dir: "/"}
	pid, master, err := f.m.ExecTTY(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	r := bufio.NewReader(master)
	if line, err := r.ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready true true" {
		t.Fatalf("%q %v", line, err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 40, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	if _, err := master.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := io.Copy(&out, r); err != nil && !errors.Is(err, unix.EIO) { // Linux's way to end
		t.Error(err)
	}
	if !strings.Contains(out.String(), "40 101 typed") {
		t.Errorf("%q", out.String())
	}
	if e := f.exit(pid); e.Code != 5 {
		t.Errorf("%+v", e)
	}
}

func TestTerminalIsTheUsers(t *testing.T) {
	f := setup(t)
	mountDev(t, f.root)
	name := f.running(Spec{})
	p := Process{Args: []string{"/bin/prog", "inside-tty-owner"}, Dir: "/", UID: 1001, GID: 1002}
	pid, master, err := f.m.ExecTTY(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if line, err := bufio.NewReader(master).ReadString('\n'); err != nil ||
		strings.TrimSpace(line) != "owner 1001 <nil>" {
		t.Errorf("%q %v", line, err)
	}
	if e := f.exit(pid); !e.Known || e.Code != 0 {
		t.Errorf("%+v", e)
	}
}

// A reader of a terminal that stays silent ends when it is closed.
func TestTerminalClose(t *testing.T) {
	f := setup(t)
	name := f.running(Spec{})
	pid, master, err := f.m.ExecTTY(t.Context(), name, Process{Args: []string{"/bin/prog", "inside-gate"}, Dir: "/"})
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(master)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, r); close(done) }()
	if err := master.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("the reader is stuck")
	}
	if e := f.exit(pid); e.Signal != int(syscall.SIGHUP) {
		t.Errorf("%+v", e)
	}
}

func TestSignalEnds(t *testing.T) {
	f := setup(t)
	name := f.running(Spec{})
	p, r := f.process("prog", "inside-gate")
	pid, err := f.m.Exec(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	f.ready(r)
	if err := f.m.Signal(name, pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); !e.Known || e.Signal != int(syscall.SIGTERM) || e.Code != 128+int(syscall.SIGTERM) {
		t.Errorf("%+v", e)
	}
	// Processes of others are out of reach, whatever number is given.
	if err := f.m.Signal(name, os.Getpid(), syscall.SIGKILL); err == nil {
		t.Error("a process outside the jail took a signal")
	}
	if err := f.m.Signal("fj-nothere", pid, syscall.SIGKILL); err == nil {
		t.Error("an unknown jail took a signal")
	}
}

func TestRemoveLeavesNoProcess(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-stubborn")
	f.ready(r)
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process is there still: %v", err)
	}
	if e := f.exit(pid); e.Signal != int(syscall.SIGKILL) || e.OOM || e.Reason != "" {
		t.Errorf("%+v", e)
	}
	if _, err := f.m.Exec(t.Context(), name, Process{Args: []string{"/bin/prog"}, Dir: "/"}); err == nil {
		t.Error("a removed jail started a process")
	}
}

func TestForkBomb(t *testing.T) {
	f := setup(t)
	if f.m.Features()["racct"] != "1" {
		t.Skip("this host's kernel does not limit resources")
	}
	name := f.create(Limits{MaxProcs: 60})
	pid, r := f.start(name, "/bin/prog", "inside-bomb")
	f.ready(r)
	for n := 0; n < 5; {
		u, err := f.m.Stats()
		if err != nil {
			t.Fatal(err)
		}
		n = len(u[name].Procs)
	}
	if err := f.m.Signal(name, 0, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if e := f.exit(pid); e.Signal != int(syscall.SIGKILL) || e.Reason != "" {
		t.Errorf("%+v", e)
	}
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
}

func TestSameName(t *testing.T) {
	f := setup(t)
	name := f.running(Spec{})
	_, err := f.m.Create(t.Context(), Spec{Name: name, Root: f.root})
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("a second jail of that name: %v", err)
	}
	p, r := f.process("prog", "inside-env")
	if out, e := f.output(name, p, r); e.Code != 0 || out != "hello inside /tmp 0\n" {
		t.Errorf("the first is no longer well: %q %+v", out, e)
	}
	// The name is free at once after a removal.
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.m.Create(t.Context(), Spec{Name: name, Root: f.root}); err != nil {
		t.Error(err)
	}
}

func TestProgramOutsideTheRoot(t *testing.T) {
	f := setup(t)
	outside := filepath.Join(t.TempDir(), "prog")
	if err := os.Link(filepath.Join(f.root, "bin/prog"), outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(f.root, "bin/link")); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for _, prog := range []string{"link", outside, up + outside} {
		p, _ := f.process(prog, "inside-exit7")
		if _, err := f.m.Start(t.Context(), f.create(Limits{}), p); !errors.Is(err, ErrNoProgram) {
			t.Errorf("%s: %v", prog, err)
		}
	}
	// A link within the root is fine, absolute or not.
	if err := os.Symlink("/bin/prog", filepath.Join(f.root, "bin/good")); err != nil {
		t.Fatal(err)
	}
	pid, _ := f.start(f.create(Limits{}), "good", "inside-exit7")
	if e := f.exit(pid); e.Code != 7 {
		t.Errorf("%+v", e)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := setup(t)
	names := make([]string, 20)
	for i := range names {
		names[i] = f.create(Limits{})
	}
	var wg sync.WaitGroup
	for _, name := range names {
		p, _ := f.process("/bin/prog", "inside-exit7")
		wg.Go(func() {
			pid, err := f.m.Start(t.Context(), name, p)
			if err != nil {
				t.Error(err)
			} else if e := <-f.m.Wait(pid); e.Code != 7 || !e.Known {
				t.Errorf("%+v", e)
			}
			if err := f.m.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestStats(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-burn")
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatalf("%q %v", line, err)
	}
	all, err := f.m.Stats()
	u := all[name]
	if err != nil || u.UserTime+u.SysTime < 100*time.Millisecond || u.RSS == 0 || len(u.Procs) != 1 {
		t.Fatalf("%+v %v", u, err)
	}
	if u.Memory < u.RSS/2 || u.Memory > 10*u.RSS {
		t.Errorf("%d bytes of memory, %d are resident", u.Memory, u.RSS)
	}
	if p := u.Procs[0]; p.PID != pid || p.Command != "prog" || p.RSS == 0 || p.UserTime+p.SysTime == 0 {
		t.Errorf("%+v", p)
	}
}

func TestOpenFiles(t *testing.T) {
	f := setup(t)
	name := f.running(Spec{Limits: Limits{OpenFiles: 64}})
	p, r := f.process("/bin/prog", "inside-files")
	if out, _ := f.output(name, p, r); out != "true\n" {
		t.Errorf("%q", out)
	}
}

// What a daemon was started with, from whatever shell, is no task's.
func TestNothingOfTheDaemonsIsInherited(t *testing.T) {
	f := setup(t)
	c, r := f.host("odd", f.name())
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, b)
	}
	want := "umask 022 nice true cpu true core true files true" + usualSignals
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range lines {
		if line != want {
			t.Errorf("%q, want %q", line, want)
		}
	}
}

// host runs the test binary as a daemon.
func (f *fixture) host(what, name string) (*exec.Cmd, *bufio.Reader) {
	f.Helper()
	self, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	c := exec.Command(self, "host-"+what, stateDir, f.root, name)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := f.m.Remove(context.Background(), name); err != nil {
			f.Error(err)
		}
	})
	return c, bufio.NewReader(out)
}

func TestAdoptAfterCrash(t *testing.T) {
	f := setup(t)
	leaveReaper(t)
	name := f.name()
	c, r := f.host("start", name)
	var pid int
	var start string
	for begun := false; pid == 0 || !begun; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "ready\n" {
			begun = true
		} else if _, err := fmt.Sscanf(line, "started %d %s", &pid, &start); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Fatal("the daemon was not killed")
	}
	if err := f.m.Adopt(name, pid, start+"1"); err == nil {
		t.Error("a process that started at another time was adopted")
	}
	if err := f.m.Adopt(name, os.Getpid(), start); err == nil {
		t.Error("a process outside the jail was adopted")
	}
	if err := f.m.Adopt(name, pid, start); err != nil {
		t.Fatal(err)
	}
	exits := f.m.Wait(pid)
	if err := os.WriteFile(filepath.Join(f.root, "tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-exits:
		if e.Known && e.Code != 7 || !e.Known && (e.Code != 0 || f.m.Features()["backend"] == "jail") {
			t.Errorf("%+v", e)
		}
		t.Logf("%+v", e)
	case <-time.After(time.Minute):
		t.Error("the end is not told")
	}
}

func TestUpgradeInPlace(t *testing.T) {
	f := setup(t)
	c, r := f.host("upgrade", f.name())
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, b)
	}
	var e Exit
	_, text, _ := strings.Cut(string(b), "{")
	if err := json.Unmarshal([]byte("{"+text), &e); err != nil || !e.Known || e.Code != 7 {
		t.Errorf("%s: %v", b, err)
	}
}

// What ends before this process is replaced is told afterwards, or to the next.
func TestNothingIsToldWhileStill(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "prog", "inside-term")
	f.ready(r)
	exits := f.m.Wait(pid)
	undo := f.m.Still()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil { // until it has ended
		t.Fatal(err)
	}
	select {
	case e := <-exits:
		t.Errorf("told: %+v", e)
	case <-time.After(100 * time.Millisecond):
	}
	undo()
	select {
	case e := <-exits:
		if !e.Known || e.Signal != int(unix.SIGKILL) {
			t.Errorf("%+v", e)
		}
	case <-time.After(time.Minute):
		t.Error("the end is not told afterwards")
	}
}

func TestOrphans(t *testing.T) {
	f := setup(t)
	if f.m.Features()["backend"] == "runc" {
		t.Skip("here a jail's processes end with the first")
	}
	name := f.create(Limits{})
	pid, _ := f.start(name, "/bin/prog", "inside-orphan")
	if e := f.exit(pid); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
	empty := make(chan struct{})
	go func() { f.m.WaitEmpty(name); close(empty) }()
	u, err := f.m.Stats()
	if err != nil || len(u[name].Procs) != 1 {
		t.Errorf("%+v %v", u[name], err)
	}
	select {
	case <-empty:
		t.Error("a process is left and it is not said")
	default:
	}
	if err := os.WriteFile(filepath.Join(f.root, "tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-empty:
	case <-time.After(time.Minute):
		t.Error("the orphan's end is not told")
	}
}
