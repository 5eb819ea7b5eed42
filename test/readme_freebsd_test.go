package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/testmanual"
)

// What `gmake install` installs, by the files that it copies.
var installed = map[string]string{
	"/usr/local/bin/freejail":                       "",
	"/usr/local/etc/rc.d/freejail":                  "example/rc.d/freejail",
	"/usr/local/etc/newsyslog.conf.d/freejail.conf": "example/newsyslog.conf.d/freejail.conf",
	"/usr/local/etc/devd/freejail.conf":             "example/devd/freejail.conf",
	"/usr/local/etc/freejail.hcl.sample":            "example/host/freejail.hcl",
}

// TestReadmeService runs, as they are written, the commands that README.md and docs/operations.md have for FreeBSD
// alone, after what `gmake install` does, and takes all of it away again.
func TestReadmeService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, name := range []string{"/usr/local/bin/freejail", "/usr/local/etc/freejail.hcl", "/var/db/freejail", pidfile} {
		if exists(name) {
			t.Skip("freejail is installed on this host")
		}
	}
	commands := freebsdCommands(t)
	installs(t)
	t.Cleanup(func() {
		out, err := exec.Command("sh", "-c", "service freejail stop; sysrc -x freejail_enable").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		// The daemon leaves no mount behind where no task ran.
		check(t, errors.Join(os.RemoveAll("/var/db/freejail"), os.RemoveAll("/var/log/freejail.log"),
			os.RemoveAll("/var/run/freejail.sock"), os.RemoveAll("/usr/local/etc/freejail.hcl")))
	})
	for _, c := range commands {
		file := filepath.Join(t.TempDir(), "output") // a daemon that held a pipe would be waited for
		cmd := exec.Command("sh", "-c", "{ "+c+"; } >"+file+" 2>&1")
		cmd.Env = append(os.Environ(), "PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
		err := cmd.Run()
		out, rerr := os.ReadFile(file)
		check(t, rerr)
		// Where no Consul answers, doctor says so and exits with 1, as the page has it.
		if err != nil && !(c == "freejail doctor" && cmd.ProcessState.ExitCode() == 1) {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
		t.Logf("%s\n%s", c, out)
	}
}

// freebsdCommands are the block of docs/operations.md without its first command, and those of README.md. The service
// runs then, and a second start would be an error.
func freebsdCommands(t *testing.T) (out []string) {
	t.Helper()
	for _, b := range testmanual.Blocks(t, shipped(t, "docs/operations.md")) {
		if c := b.Commands(); c[0] == "gmake install" {
			out = append(out, c[1:]...)
		}
	}
	for _, b := range testmanual.Blocks(t, shipped(t, "README.md")) {
		for _, c := range b.Commands() {
			if onFreeBSD[c] {
				out = append(out, "service freejail stop", c, "freejail doctor")
			}
		}
	}
	if len(out) < 7 {
		t.Fatalf("the pages have only %q", out)
	}
	return out
}

// installs copies what is installed, and has it removed with the directories that were made for it.
func installs(t *testing.T) {
	t.Helper()
	for to, from := range installed {
		mode := os.FileMode(0o644)
		if from == "" {
			from = program(t, "FREEJAIL_BIN")
		} else {
			from = shipped(t, from)
		}
		if filepath.Base(to) == "freejail" {
			mode = 0o755
		}
		makeDirs(t, filepath.Dir(to))
		text, err := os.ReadFile(from)
		check(t, err)
		check(t, os.WriteFile(to, text, mode))
		t.Cleanup(func() { check(t, os.Remove(to)) })
	}
}

func makeDirs(t *testing.T, dir string) {
	t.Helper()
	if exists(dir) {
		return
	}
	makeDirs(t, filepath.Dir(dir))
	check(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { check(t, os.Remove(dir)) })
}
