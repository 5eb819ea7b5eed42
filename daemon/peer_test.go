package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// asked is what a process of this test binary hears from the daemon.
func asked(t *testing.T, socket string, attr *syscall.SysProcAttr) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	prog := filepath.Join(filepath.Dir(socket), "prog") // where others may execute it
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(prog, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(prog, "ask", socket)
	if attr != nil && attr.Chroot != "" && attr.Chroot != "/" {
		cmd = &exec.Cmd{Path: "/prog", Args: []string{"/prog", "ask", "/s"}, Dir: "/"}
	}
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestOtherUsersAreRefused(t *testing.T) {
	dir := shortDir(t)
	daemonAt(t, dir, "")
	socket := filepath.Join(dir, "s")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if got := asked(t, socket, nobody); !strings.Contains(got, "permission denied") {
		t.Errorf("another user hears %q", got)
	}
	if err := os.Chmod(socket, 0o777); err != nil { // as an operator may by mistake
		t.Fatal(err)
	}
	if got := asked(t, socket, nobody); !strings.Contains(got,
		"only root may talk to the freejail daemon, not uid 65534") {
		t.Errorf("another user hears %q", got)
	}
	if got := asked(t, socket, nil); got != "answer: <nil>\n" {
		t.Errorf("root of the host hears %q", got)
	}
}

// Root with another root directory is not root of the host.
func TestChrootsAreRefused(t *testing.T) {
	dir := shortDir(t)
	daemonAt(t, dir, "")
	socket := filepath.Join(dir, "s")
	if got := asked(t, socket, &syscall.SysProcAttr{Chroot: dir}); !strings.Contains(got, "another root directory") {
		t.Errorf("root in a chroot hears %q", got)
	}
	if got := asked(t, socket, &syscall.SysProcAttr{Chroot: "/"}); got != "answer: <nil>\n" {
		t.Errorf("root in a chroot that is the host's root hears %q", got)
	}
}

// Root of a jail is not root of the host, also where an operator's policy let
// the socket's directory be mounted.
func TestJailsAreRefused(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit {\n  mounts = [\"nullfs:"+dir+"\"]\n}\n")
	path, err := testimage.Write(t.Context(), t.TempDir(),
		testimage.Spec{Name: "prog", Cmd: []string{"ask", "/host/s"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: path,
		Volumes: []client.Mount{{Source: dir, Target: "/host"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := c.Logs(t.Context(), "one", "stdout", false, -1, &log); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "only root of the host may talk to the freejail daemon") {
		t.Errorf("root of a jail hears %q", got)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}
