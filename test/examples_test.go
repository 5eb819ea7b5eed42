package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// shipped is a file of the source's root, which the bundle has too.
func shipped(t *testing.T, name string) string {
	t.Helper()
	for _, up := range []string{"..", "../.."} { // the bundle has it elsewhere
		if p, err := filepath.Abs(filepath.Join(up, name)); err == nil && exists(p) {
			return p
		}
	}
	t.Skip(name + " is not here")
	return ""
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// Each example of an agent starts as it is, together and alone, on a host that has a loopback and nothing else.
func TestExampleAgents(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a Nomad client needs root")
	}
	nomad, consul := program(t, "NOMAD_BIN"), program(t, "CONSUL_BIN")
	server, client := "-config="+shipped(t, "example/nomad/server.hcl"), "-config="+shipped(t, "example/nomad/client.hcl")
	for name, args := range map[string][]string{
		"server and client": {nomad, "agent", server, client},
		"server":            {nomad, "agent", server},
		"client":            {nomad, "agent", client},
		"for development":   {nomad, "agent", "-dev", server, client},
		"consul":            {consul, "agent", "-config-file=" + shipped(t, "example/consul/agent.hcl")},
	} {
		t.Run(name, func(t *testing.T) {
			want := "Nomad agent started!"
			if args[0] == consul {
				want = "New leader elected"
			} else { // without the plugin, which would start a daemon on the host's own socket
				args = append(args, "-plugin-dir="+t.TempDir())
			}
			runsUntil(t, want, append(args, "-data-dir="+tempDir(t)))
		})
	}
}

// runsUntil starts a program, alone in a network if that can be, and ends it once it has said so.
func runsUntil(t *testing.T, want string, args []string) {
	t.Helper()
	if runtime.GOOS == "linux" {
		args = append([]string{"unshare", "-n", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}, args...)
	} else if l, err := net.Listen("tcp", "127.0.0.1:4646"); err != nil {
		t.Skip("an agent of this host's own has the port")
	} else {
		check(t, l.Close())
	}
	var out syncBuffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	await(t, want, func() error {
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, out.String())
		default:
		}
		if !strings.Contains(out.String(), want) {
			return fmt.Errorf("it says %q", out.String())
		}
		return nil
	})
	check(t, cmd.Process.Signal(syscall.SIGINT))
	<-ended
}

// What reads the examples on its own system finds no fault.
func TestExamplesAreRead(t *testing.T) {
	for _, args := range [][]string{
		{"sh", "-n", shipped(t, "example/rc.d/freejail")},
		{"newsyslog", "-n", "-f", shipped(t, "example/newsyslog.conf.d/freejail.conf")},
		{"systemd-analyze", "verify", shipped(t, "example/systemd/freejail.service")},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			continue
		}
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		// systemd also looks for the program, which is not installed.
		if err != nil && !bytes.Contains(out, []byte("is not executable: No such file or directory")) {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
}

// The unit is installed on Linux with the programs' paths, and has nothing that tasks inherit and cannot be without, or
// that ends them with the daemon.
func TestUnitOfSystemd(t *testing.T) {
	text, err := os.ReadFile(shipped(t, "example/systemd/freejail.service"))
	check(t, err)
	has := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			has[key] = value
		}
	}
	for key, want := range map[string]string{"KillMode": "process", "OOMPolicy": "continue", "Restart": "on-failure",
		"ExecReload": "/usr/local/bin/freejail daemon --upgrade"} {
		if has[key] != want {
			t.Errorf("%s is %q, want %q", key, has[key], want)
		}
	}
	for key := range has {
		for _, bad := range []string{"NoNewPrivileges", "Protect", "Private", "Restrict", "SystemCall", "ReadOnly",
			"Inaccessible", "DynamicUser", "RootDirectory", "MemoryMax", "TasksMax"} {
			if strings.HasPrefix(key, bad) {
				t.Errorf("%s: tasks inherit it, or it hides their mounts", key)
			}
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	cmd := exec.Command("make", "-n", "install", "DESTDIR=/to", "PREFIX=/opt/x")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("sed 's,/usr/local/,/opt/x/,g' example/systemd/$u.service >$f")) ||
		!bytes.Contains(out, []byte("f=/to/opt/x/lib/systemd/system/$u.service")) {
		t.Errorf("make install: %v\n%s", err, out)
	}
	units, err := filepath.Glob("../example/systemd/*.service")
	check(t, err)
	for _, u := range units {
		name := strings.TrimSuffix(filepath.Base(u), ".service")
		if !regexp.MustCompile(`for u in [a-z -]*\b` + name + `(;| [a-z])`).Match(out) {
			t.Errorf("make install leaves out %s", u)
		}
	}
}

// devd leaves the links of tasks alone, and no other interface.
func TestDevdRuleIsForLinksOfTasks(t *testing.T) {
	text, err := os.ReadFile(shipped(t, "example/devd/freejail.conf"))
	check(t, err)
	m := regexp.MustCompile(`"subsystem"\s+"([^"]+)"`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no subsystem in\n%s", text)
	}
	fits := regexp.MustCompile("^(?i:" + string(m[1]) + ")$") // as devd.cc has it
	for n := range 40000 {
		for _, end := range []string{"a", "b"} {
			if name := fmt.Sprintf("epair%d%s", n, end); fits.MatchString(name) != (n >= 16384 && n <= 32767) {
				t.Fatalf("%s: %v", name, fits.MatchString(name))
			}
		}
	}
	for _, name := range []string{"em0", "epair20000", "epair20000c", "xepair20000a", "bridge0", "lo0"} {
		if fits.MatchString(name) {
			t.Errorf("%s is not a task's", name)
		}
	}
}
