package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// insideBusy is a program that looks for files, connects to where nobody listens, sends what is secret, and has a
// child that does so too; with flood it does that as fast as it can.
func insideBusy(args []string) int {
	pause := 50 * time.Millisecond
	if len(args) > 0 && args[0] == "flood" {
		pause = 0
	}
	name := "main"
	if len(args) > 1 {
		name = args[1]
	} else if err := exec.Command("/bin/prog", "inside", "busy", "calm", "child").Start(); err != nil {
		fmt.Println(err)
		return 9
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		return 9
	}
	defer pipe.Close()
	for {
		if f, err := os.Open("/looked-for-by-" + name); err == nil {
			f.Close()
		}
		if c, err := net.Dial("tcp", "127.0.0.1:9"); err == nil {
			c.Close()
		}
		if pause > 0 {
			fmt.Fprint(w, "secret-of-"+name)
			_, _ = pipe.Read(make([]byte, 100))
		}
		time.Sleep(pause)
	}
}

// needsTracer is what a host of tests has: kdump is of FreeBSD's base, strace comes with `make interop`.
func needsTracer(t *testing.T) {
	t.Helper()
	name := map[string]string{"linux": "strace", "freebsd": "kdump"}[runtime.GOOS]
	if _, err := exec.LookPath(name); err != nil {
		t.Fatal(err)
	}
}

// traces runs a command that traces, and wants it to end by itself.
func (h *testHost) traces(ends string, args ...string) string {
	h.t.Helper()
	r := h.freejail(append([]string{"trace"}, args...)...)
	if r.code != 0 || !strings.Contains(r.errout, ends) {
		h.t.Errorf("trace %s: exit code %d, no %q in\n%s", args, r.code, ends, r.errout)
	}
	return r.out
}

func (h *testHost) noTrace(what string, args ...string) {
	h.t.Helper()
	r := h.freejail(append([]string{"trace"}, args...)...)
	if r.code == 0 || !strings.Contains(r.errout, what) {
		h.t.Errorf("trace %s: exit code %d, no %q in\n%s", args, r.code, what, r.errout)
	}
}

func want(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out) {
			t.Errorf("no %s in\n%.3000s", p, out)
		}
	}
}

func wantNot(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if line := regexp.MustCompile(".*" + p + ".*").FindString(out); line != "" {
			t.Errorf("the trace has %q", line)
		}
	}
}

// untilSeen traces until the trace has texts, as long as that takes.
func (h *testHost) untilSeen(texts []string, during func(), args ...string) string {
	h.t.Helper()
	a := h.attach(append(append([]string{"trace"}, args...), "--for", "10m", "--size", "256MiB")...)
	a.says("tracing ")
	if during != nil {
		during()
	}
	for _, text := range texts {
		a.says(text)
	}
	check(h.t, a.Process.Signal(syscall.SIGINT))
	a.ends(130)
	return a.out.String()
}

// The trace of a task has its paths, or its addresses, or all calls: of every process, also of those that are
// started in its jail during the trace; nothing that is read or written, and nothing of other tasks.
func TestTrace(t *testing.T) {
	needsTracer(t)
	h := newHost(t, "")
	id, other := fmt.Sprintf("traced%d", os.Getpid()), fmt.Sprintf("other%d", os.Getpid())
	h.gives(0, nil, "run", "-d", "--name", id, "prog", "busy")
	h.gives(0, nil, "run", "-d", "--name", other, "prog", "busy", "calm", "elsewhere")
	connects, unheard := `inet_addr("127.0.0.1")`, "ECONNREFUSED"
	if runtime.GOOS == "freebsd" {
		connects, unheard = "AF_INET, 127.0.0.1:9 }", "Connection refused"
	}
	t.Run("files", func(t *testing.T) {
		h := h.of(t)
		late := h.command("exec", id, "/bin/prog", "inside", "busy", "calm", "late")
		defer func() { _ = errors.Join(late.Process.Signal(syscall.SIGTERM), late.Wait()) }()
		out := h.untilSeen([]string{"looked-for-by-main", "looked-for-by-child", "looked-for-by-late", "No such file"},
			func() { check(t, late.Start()) }, id, "--files")
		wantNot(t, out, regexp.QuoteMeta(connects), "secret-of", "elsewhere")
	})
	t.Run("net", func(t *testing.T) {
		out := h.of(t).untilSeen([]string{connects}, nil, id, "--net")
		wantNot(t, out, "looked-for", "secret-of")
	})
	t.Run("all", func(t *testing.T) {
		out := h.of(t).untilSeen([]string{"looked-for-by-main", connects, "write", unheard}, nil, id)
		wantNot(t, out, "secret-of", "elsewhere")
	})
	t.Run("json", func(t *testing.T) {
		r := h.of(t).freejail("--json", "trace", id, "--files", "--for", "1s")
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		want(t, lines[0], `^\{"began":\{"processes":[1-9],"limit":`)
		want(t, lines[len(lines)-1], `^\{"end":\{"why":"time","bytes":[0-9]`)
	})
	h.traces("its time is over", id, "--files", "--for", "2")
	h.noTrace("none of the others can be", id, "--files", "--net")
	h.noTrace("not from 64KiB", id, "--size", "1KiB")
	h.noTrace("not from 1s", id, "--for", "2h")
	h.noTrace("no such task", "nobody")
	h.noTrace(map[string]string{"linux": "bpftrace", "freebsd": "freejail has no script"}[runtime.GOOS], id, "--dtrace",
		"nonsense")
	h.noTrace("no such file", id, "--dtrace", "./nonsense.d")
	events := h.gives(0, nil, "events")
	want(t, events, id+" +trace +traced by root.*: files, for 2s and 64MiB at most",
		id+" +trace +the trace by root.* ended after .*s: time", "gone away")
	h.notTraced(id)
	h.gives(0, nil, "rm", "-f", id, other)
}

// notTraced wants nothing of a trace to be left.
func (h *testHost) notTraced(id string) {
	h.t.Helper()
	if files, err := os.ReadDir(h.path("state/trace")); err == nil && len(files) > 0 {
		h.t.Errorf("files of traces are left: %v", files)
	}
	for _, p := range decoded[client.Usage](h, "processes", id).Procs {
		for began := time.Now(); isTraced(h.t, p.PID); time.Sleep(10 * time.Millisecond) { // strace may just end
			if time.Since(began) > time.Minute {
				h.t.Fatalf("process %d is traced still", p.PID)
			}
		}
	}
}

// A trace ends with its size, whatever the task does; with its task; with its client; and with its daemon, of
// which another one takes over the task.
func TestTraceEnds(t *testing.T) {
	needsTracer(t)
	h := newHost(t, "")
	id := fmt.Sprintf("flood%d", os.Getpid())
	h.gives(0, nil, "run", "-d", "--name", id, "prog", "busy", "flood")
	out := h.traces("it has its size", id, "--size", "256KiB", "--for", "10m")
	if len(out) < 64<<10 || len(out) > 4<<20 {
		t.Errorf("%d bytes are shown", len(out))
	}
	h.notTraced(id)

	a := h.attach("trace", id, "--net", "--for", "10m", "--size", "512MiB")
	a.says("tracing 2 processes")
	h.noTrace("traced already", id)
	check(t, a.Process.Signal(syscall.SIGINT))
	a.ends(130)
	want(t, h.eventsUntil("gone away"), "the trace by root.* ended after .*gone away")
	h.notTraced(id)

	a = h.attach("trace", id, "--files", "--for", "10m", "--size", "512MiB")
	a.says("tracing 2 processes")
	h.gives(0, nil, "daemon", "--upgrade")
	a.ends(1, "being upgraded")
	h.notTraced(id)

	a = h.attach("trace", id, "--net", "--for", "10m", "--size", "512MiB")
	a.says("tracing 2 processes")
	h.end()
	h.begin()
	a.ends(1)
	h.notTraced(id)

	a = h.attach("trace", id, "--net", "--for", "10m", "--size", "512MiB")
	a.says("tracing 2 processes")
	var pid int
	_, err := fmt.Sscan(h.read("state/lock"), &pid)
	check(t, err)
	check(t, syscall.Kill(pid, syscall.SIGKILL))
	a.ends(1)
	h.begin()
	h.notTraced(id)

	a = h.attach("trace", id, "--net", "--for", "10m", "--size", "512MiB")
	a.says("tracing 2 processes")
	h.gives(0, nil, "kill", id)
	a.ends(0, "no process any more")
	h.gives(0, nil, "rm", "-f", id)
}

// eventsUntil are the events, one of which has a text.
func (h *testHost) eventsUntil(text string) string {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if out := h.gives(0, nil, "events"); strings.Contains(out, text) || time.Now().After(deadline) {
			return out
		}
	}
}

// Who is not root traces by a permit that names the user alone, and by no script of one's own.
func TestTraceIsAPrivilege(t *testing.T) {
	needsTracer(t)
	const uid = 61234
	h := newHost(t, fmt.Sprintf("socket_group = %q\npermit {\n images = [\"open\"]\n traces = [%q]\n}\n"+
		"deny {\n images = [\"never\"]\n traces = [\"*\"]\n}\n", "65534", fmt.Sprint(uid)))
	check(t, os.Chmod(h.dir, 0o755))
	b, err := os.ReadFile(self(t))
	check(t, err)
	check(t, os.WriteFile(h.path("prog"), b, 0o755))
	as := func(uid uint32, args ...string) result {
		cmd := h.command(args...)
		cmd.Path, cmd.SysProcAttr = h.path("prog"), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
		var out, errout bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errout
		_ = cmd.Run() // the exit code says it
		return result{cmd.ProcessState.ExitCode(), out.String(), errout.String()}
	}
	for _, name := range []string{"open", "never"} {
		h.gives(0, nil, "images", "import", h.image(name, ""))
	}
	for _, image := range []string{"open", "prog", "never"} {
		h.gives(0, nil, "run", "-d", "--name", image, image, "busy", "calm", "one")
	}
	check(t, os.WriteFile(h.path("own.d"), []byte("BEGIN { exit(0); }\n"), 0o644))
	for _, c := range []struct {
		uid  uint32
		args []string
		code int
		text string
	}{
		{uid, []string{"open", "--for", "1"}, 0, "its time is over"},
		{uid + 1, []string{"open", "--for", "1"}, 77, "trace by 61235, asked for by the operator: no permit covers it"},
		{uid, []string{"prog", "--for", "1"}, 77, "--request trace:61234"},
		{uid, []string{"never", "--for", "1"}, 77, "denied at freejail.hcl:"},
		{uid, []string{"open", "--dtrace", h.path("own.d")}, 77, "only root may trace by a script of one's own"},
		{0, []string{"prog", "--for", "1"}, 0, "its time is over"},
		{0, []string{"never", "--for", "1"}, 77, "trace by root, asked for by the host: denied"},
	} {
		r := as(c.uid, append([]string{"trace"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.errout, c.text) {
			t.Errorf("%d: trace %s: exit code %d, no %q in\n%s", c.uid, c.args, r.code, c.text, r.errout)
		}
	}
	want(t, h.gives(0, nil, "events"), `prog +trace +a trace is refused to uid 61234`)
	h.gives(0, nil, "policy", "approve", "prog", "--reason", "an incident", "--request", "trace:61235")
	if r := as(uid+1, "trace", "prog", "--for", "1"); r.code != 0 {
		t.Errorf("approved: %+v", r)
	}
	h.gives(77, []string{"trace by nobody", "no permit"}, "policy", "check", "open", "--trace", "nobody")
	h.gives(77, []string{"trace by root", "denied"}, "policy", "check", "never", "--trace", "root")
	h.gives(0, []string{"trace by root", "permitted"}, "policy", "check", "open", "--trace", "root")
	h.gives(1, []string{`no user "no-such" on this host`}, "policy", "check", "open", "--trace", "no-such")
	h.gives(0, nil, "rm", "-f", "open", "prog", "never")
}
