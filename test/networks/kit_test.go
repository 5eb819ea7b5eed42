// Package networks tests the networks of a host by real tasks of a real daemon: who reaches whom, and
// that nothing is left.
package networks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testhost"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testprog"
)

// The test binary is also the program of the images that it runs.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		if code, done := testhost.Apart(); done {
			os.Exit(code)
		}
	}
	testprog.Main(m, programs)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The host of these tests: an uplink to a network with another machine, and a bridge.
const (
	uplink, officeBridge = "fjtup0", "fjtbr0"
	hostAddr4, hostAddr6 = "192.0.2.1", "2001:db8:2::1"
	outAddr4, outAddr6   = "192.0.2.2", "2001:db8:2::2"
	officeHost           = "203.0.113.1" // of the host, on the bridge
)

// configuration has a network of each sort.
const configuration = `
network "lan" {
  mode    = "nat"
  subnet4 = "10.188.0.0/22"
  subnet6 = "fd00:188::/64"
}
network "other" {
  mode    = "nat"
  subnet4 = "10.189.0.0/24"
  subnet6 = "fd00:189::/64"
}
network "closed" {
  mode        = "nat"
  isolate     = true
  subnet4     = "10.190.0.0/24"
  host_access = ["7001/tcp"]
}
network "office" {
  mode    = "bridged"
  bridge  = "` + officeBridge + `"
  subnet4 = "203.0.113.0/24"
  pool4   = "203.0.113.64/27"
  gateway = "` + officeHost + `"
}
network "front" {
  mode      = "alias"
  interface = "` + uplink + `"
  subnet4   = "192.0.2.0/24"
  pool4     = "192.0.2.100-192.0.2.109"
}
permit {
  networks  = ["*"]
  addresses = ["0.0.0.0/0", "::/0"]
  publish   = ["*:1-65535"]
  ports     = ["1-65535"]
  allow     = ["raw_sockets"]
}
`

// host is a daemon on the host of these tests.
type host struct {
	*client.Client
	dir, config string
	cmd         *exec.Cmd
	gone        chan error
}

var daemons atomic.Int32

// newHost makes the host, with a daemon and its image.
func newHost(t *testing.T) *host {
	t.Helper()
	bin := os.Getenv("FREEJAIL_BIN")
	if os.Geteuid() != 0 || bin == "" {
		t.Skip("networks of tasks need root, and FREEJAIL_BIN (`make test` sets it)")
	}
	dir, err := os.MkdirTemp("", "fjn")
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(mount.UnmountUnder(dir), os.RemoveAll(dir))) })
	makeHost(t)
	h := &host{dir: dir, config: filepath.Join(dir, "freejail.hcl"), Client: client.New(filepath.Join(dir, "sock"))}
	text := fmt.Sprintf("state_dir = %q\nsocket = %q\nlog_level = \"warn\"\n", filepath.Join(dir, "state"), h.Socket())
	check(t, os.WriteFile(h.config, []byte(text+configuration), 0o600))
	h.start(t)
	t.Cleanup(func() { h.close(t) })
	h.load(t, testimage.Spec{Name: "prog", Cmd: []string{"idle"}, Manifest: `{"schemaVersion":1,"ports":[` +
		`{"name":"http","port":8080},{"name":"echo","port":8080,"protocol":"udp"}]}`})
	return h
}

func (h *host) start(t *testing.T) {
	t.Helper()
	h.cmd = exec.Command(os.Getenv("FREEJAIL_BIN"), "daemon", "--config", h.config)
	h.cmd.Stdout, h.cmd.Stderr = os.Stderr, os.Stderr
	check(t, h.cmd.Start())
	h.gone = make(chan error, 1)
	go func(c *exec.Cmd, gone chan error) { gone <- c.Wait() }(h.cmd, h.gone)
	await(t, "the daemon to answer", func() error {
		select {
		case err := <-h.gone:
			t.Fatalf("the daemon ended: %v", err)
		default:
		}
		_, err := h.Info(t.Context())
		return err
	})
}

// kill ends the daemon as a crash would.
func (h *host) kill(t *testing.T) {
	t.Helper()
	check(t, h.cmd.Process.Signal(syscall.SIGKILL))
	<-h.gone
}

// close ends every task and the daemon.
func (h *host) close(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tasks, err := h.Tasks(ctx)
	for _, task := range tasks {
		err = errors.Join(err, h.Destroy(ctx, task.Spec.ID, true))
	}
	if err := errors.Join(err, h.cmd.Process.Signal(syscall.SIGTERM), <-h.gone); err != nil {
		t.Error(err)
	}
}

// load imports an image, with the test binary as its program.
func (h *host) load(t *testing.T, spec testimage.Spec) {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), spec)
	check(t, err)
	_, err = h.Import(t.Context(), client.ImportRequest{Path: path, Name: spec.Name}, nil)
	check(t, err)
}

// id is that of a task of this run.
func id(name string) string { return fmt.Sprintf("fjn%d-%d-%s", os.Getpid(), daemons.Add(1), name) }

// task starts one of the image prog that serves ports, tcp and udp, and returns when it does.
func (h *host) task(t *testing.T, name, network string, change func(*client.TaskSpec), ports ...string) *client.Task {
	t.Helper()
	spec := client.TaskSpec{ID: id(name), Owner: "cli", Image: "prog", Network: network, Command: "serve",
		Args: append([]string{name}, ports...)}
	if change != nil {
		change(&spec)
	}
	info, err := h.Start(t.Context(), spec)
	check(t, err)
	await(t, name+" to serve", func() error {
		if text := h.log(t, info.Spec.ID); !strings.Contains(text, "serving") {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
	return info
}

func (h *host) log(t *testing.T, id string) string {
	t.Helper()
	var out bytes.Buffer
	for _, stream := range []string{"stdout", "stderr"} {
		check(t, h.Logs(t.Context(), id, stream, false, -1, &out))
	}
	return out.String()
}

// in runs a program of the test binary in a task, and returns what it says; an error if it fails.
func (h *host) in(t *testing.T, task *client.Task, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	e, err := h.Exec(t.Context(), task.Spec.ID, client.ExecSpec{Args: append([]string{testimage.Program}, args...)},
		client.ExecIO{Stdout: &out, Stderr: &out})
	check(t, err)
	if e.Code != 0 {
		return out.String(), fmt.Errorf("%s in %s: exit code %d: %s", args, task.Spec.ID, e.Code, &out)
	}
	return out.String(), nil
}

// self is the test binary as a program.
func self(args ...string) []string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{path}, args...)
}

func command(args ...string) *exec.Cmd { return exec.Command(args[0], args[1:]...) }

// here runs a program of the test binary on the host.
func here(args ...string) (string, error) { return told(command(self(args...)...)) }

// outside runs one on the other machine.
func outside(args ...string) (string, error) { return told(onOther(self(args...)...)) }

func told(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd.Args, err, out)
	}
	return string(out), err
}

// call runs a program of the system.
func call(t *testing.T, args ...string) string {
	t.Helper()
	out, err := told(exec.Command(args[0], args[1:]...))
	check(t, err)
	return strings.TrimSpace(out)
}

// reached and unreached are what was asked for of a task by its name, of its answer.
func reached(t *testing.T, what, name string) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		if err != nil || !strings.HasPrefix(out, name+" ") {
			t.Errorf("%s: %s is not reached: %q %v", what, name, out, err)
		}
	}
}

func unreached(t *testing.T, what string) func(string, error) {
	return func(out string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: reached: %s", what, out)
		}
	}
}

// await asks again until there is no error.
func await(t *testing.T, what string, ask func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatalf("waited for %s: %v", what, err)
}

// at is an address with a port, which may be empty.
func at(a netip.Addr, port string) string {
	return strings.TrimSuffix(netip.AddrPortFrom(a, 0).String(), "0") + port
}

func contains(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("it says %q, and not %q", text, part)
	}
	return nil
}

func publish(t *testing.T, texts ...string) func(*client.TaskSpec) {
	t.Helper()
	return func(s *client.TaskSpec) {
		for _, text := range texts {
			p, err := client.ParsePublication(text)
			check(t, err)
			s.Publish = append(s.Publish, p)
		}
	}
}

// refusal is the error of a start that has to be one.
func (h *host) refusal(t *testing.T, spec client.TaskSpec) string {
	t.Helper()
	spec.ID, spec.Owner, spec.Image, spec.Command = id("refused"), "cli", "prog", "idle"
	_, err := h.Start(t.Context(), spec)
	if err == nil {
		t.Fatalf("%+v is started", spec)
	}
	return err.Error()
}
