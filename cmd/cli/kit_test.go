package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testprog"
	"github.com/freejail/freejail/jail"
)

// asCLI is the test binary as the command line, and so the daemon too.
const asCLI = "freejail"

// The test binary is also the program of the images.
func TestMain(m *testing.M) {
	testprog.Main(m, testprog.Programs{asCLI: func([]string) int { return Main("1.2.3") }, "inside": inside})
}

// command is a run of the command line.
func (h *testHost) command(args ...string) *exec.Cmd {
	cmd := testprog.Command(asCLI, args...)
	cmd.Env = append(cmd.Env, "FREEJAIL_SOCKET="+h.socket)
	return cmd
}

// inside is what runs in the jails.
func inside(args []string) int {
	switch args[0] {
	case "say":
		fmt.Println(strings.Join(args[1:], " "))
		fmt.Fprintln(os.Stderr, "to standard error")
	case "exit":
		var code int
		fmt.Sscan(args[1], &code)
		return code
	case "stubborn":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("here")
		for sig := range c {
			fmt.Println(sig)
		}
	case "fill":
		if err := os.WriteFile("/fill", make([]byte, 32<<20), 0o644); err != nil {
			fmt.Println(err)
			return 9
		}
		time.Sleep(time.Hour)
	case "terminal":
		return insideTerminal()
	case "many":
		for i := range manyLines {
			fmt.Printf("line %07d\n", i)
		}
	case "busy":
		return insideBusy(args[1:])
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "wait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Print(strings.Join(args[1:], ""))
		fmt.Println("greeting", os.Getenv("GREETING"))
		<-c
		fmt.Println("bye")
		return 3
	}
	return 0
}

// testHost is a daemon of its own process, with its directory.
type testHost struct {
	t      *testing.T
	dir    string
	socket string
	end    func() // of the daemon
}

// result is how one run of the command line ended.
type result struct {
	code        int
	out, errout string
}

// freejail runs the command line as a process.
func (h *testHost) freejail(args ...string) result { h.t.Helper(); return h.fed("", args...) }

func (h *testHost) fed(stdin string, args ...string) result {
	h.t.Helper()
	cmd := h.command(args...)
	var out, errout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errout
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errout.String()}
}

// gives runs the command line, wants an exit code and parts of what it prints,
// on standard output where it succeeds and on either where it does not.
func (h *testHost) gives(code int, parts []string, args ...string) string {
	h.t.Helper()
	r := h.freejail(args...)
	if r.code != code {
		h.t.Errorf("freejail %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errout)
	}
	text := r.out
	if code != 0 {
		text += r.errout
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			h.t.Errorf("freejail %s: no %q in\n%s", strings.Join(args, " "), p, text)
		}
	}
	return r.out
}

// decoded runs a command with --json and decodes what it prints.
func decoded[T any](h *testHost, args ...string) (v T) {
	h.t.Helper()
	r := h.freejail(append([]string{"--json"}, args...)...)
	dec := json.NewDecoder(strings.NewReader(r.out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil || r.code != 0 {
		h.t.Errorf("freejail --json %s: exit code %d, %v\n%s%s", strings.Join(args, " "), r.code, err, r.out, r.errout)
	}
	return v
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	check(t, err)
	return path
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// away is a host without a daemon.
func away(t *testing.T) *testHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "fj") // short enough for a unix socket's path
	check(t, err)
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &testHost{t: t, dir: dir, socket: filepath.Join(dir, "s")}
}

// newHost runs `freejail daemon` with a policy, and an image "prog".
func newHost(t *testing.T, policy string) *testHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	if _, err := jail.Open(jail.Config{StateDir: t.TempDir()}); err != nil {
		t.Skip(err)
	}
	h := away(t)
	check(t, os.WriteFile(h.path("freejail.hcl"), fmt.Appendf(nil, "state_dir = %q\n%s", h.path("state"),
		policy), 0o600))
	h.begin()
	t.Cleanup(func() { h.end() })
	t.Cleanup(func() { // tasks outlive a daemon
		if r := h.freejail("rm", "--force", "--all"); r.code != 0 {
			t.Errorf("the tasks that were left: %+v", r)
		}
	})
	h.gives(0, []string{"prog sha256:"}, "images", "import", h.image("prog", ""))
	return h
}

// of is the host for a test of a test.
func (h *testHost) of(t *testing.T) *testHost {
	other := *h
	other.t = t
	return &other
}

// begin starts the host's daemon, which end ends.
func (h *testHost) begin() {
	t := h.t
	t.Helper()
	cmd := h.command("daemon", "--config", h.path("freejail.hcl"), "--log-file", h.path("log"))
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	h.end = func() {
		h.end = func() {}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the daemon ended by %v:\n%s", err, h.read("log"))
		}
	}
	for h.freejail("ps").code != 0 {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the daemon ended:\n%s", h.read("log"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (h *testHost) path(name string) string { return filepath.Join(h.dir, name) }

// read gives what is in a file; nothing is in one that is not there.
func (h *testHost) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Error(err)
	}
	return string(b)
}

// image builds one of the test binary, with more lines for its Jailfile.
func (h *testHost) image(name, more string) string {
	h.t.Helper()
	dir := h.t.TempDir()
	in, err := os.Open(self(h.t))
	check(h.t, err)
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "prog"), os.O_CREATE|os.O_WRONLY, 0o755)
	check(h.t, err)
	_, err = io.Copy(out, in)
	check(h.t, err)
	check(h.t, out.Close())
	text := "FROM scratch\nNAME " + name +
		"\nSUMMARY for tests\nCOPY prog /bin/prog\nPARAM GREETING default=hello description=\"a word\"\n" +
		"ENTRYPOINT [\"/bin/prog\", \"inside\"]\nCMD [\"wait\"]\n" + more
	check(h.t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(text), 0o600))
	path := filepath.Join(h.t.TempDir(), name+".tar")
	_, err = build.Build(h.t.Context(), build.Options{Context: dir, Output: path})
	check(h.t, err)
	return path
}

// awaitState polls until a task has a state.
func (h *testHost) awaitState(id string, want client.State) client.Task {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		task := decoded[client.Task](h, "inspect", id)
		if task.State == want {
			return task
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("task %s is %s, want %s", id, task.State, want)
		}
	}
}
