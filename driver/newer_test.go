package driver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/freejail/freejail/daemon/client"
)

// An agent asks for capabilities after the configuration.
func TestCapabilitiesAreConfigured(t *testing.T) {
	b, conn := startPlugin(t)
	for on, want := range map[bool]string{false: "", true: string(dynamicUsers)} {
		conf := taskConfig(t, map[string]any{"disable_log_collection": on, "dynamic_workload_users": on})
		if err := b.SetConfig(&base.Config{PluginConfig: conf}); err != nil {
			t.Fatal(err)
		}
		r, err := proto.NewDriverClient(conn).Capabilities(t.Context(), &proto.CapabilitiesRequest{})
		if err != nil || r.Capabilities.DisableLogCollection != on ||
			string(r.Capabilities.XXX_unrecognized) != want {
			t.Errorf("%v: %v %v", on, r, err)
		}
	}
}

// A user of Nomad's is for tasks that have none, where the agent was asked for one.
func TestNomadsUser(t *testing.T) {
	for _, c := range []struct {
		on         bool
		user       string
		own, other string
	}{
		{true, "nomad-80001", "", "80001:80001"},
		{false, "nomad-80001", "nomad-80001", ""},
		{true, "web", "web", ""},
		{true, "nomad-80001x", "nomad-80001x", ""},
		{true, "", "", ""},
	} {
		s := client.TaskSpec{User: c.user}
		Config{NomadUsers: c.on}.agent(&s)
		if s.User != c.own || s.DefaultUser != c.other {
			t.Errorf("%+v: %q %q", c, s.User, s.DefaultUser)
		}
	}
}

// Where Nomad reads no log, the daemon keeps it.
func TestLogsThatNomadDoesNotRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, ".web.stdout.fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link") // which the daemon refuses
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		off        bool
		path, want string
	}{"collected": {false, fifo, fifo}, "by the plugin": {true, fifo, ""},
		"by the job": {false, filepath.Join(dir, "none"), ""}, "a link instead": {false, link, link}} {
		s := client.TaskSpec{Stdout: c.path, Stderr: c.path}
		Config{NoLogs: c.off}.agent(&s)
		if s.Stdout != c.want || s.Stderr != c.want {
			t.Errorf("%s: %q %q", name, s.Stdout, s.Stderr)
		}
	}
}

// What a volume's mount says and does not get is refused.
func TestVolumeMounts(t *testing.T) {
	label := func(v string) []byte {
		b := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 7)
		return protowire.AppendString(protowire.AppendTag(b, selinuxLabel, protowire.BytesType), v)
	}
	for _, c := range []struct {
		m    proto.Mount
		want string
	}{
		{proto.Mount{PropagationMode: "private", XXX_unrecognized: label("")}, ""},
		{proto.Mount{}, ""},
		{proto.Mount{PropagationMode: "host-to-task"}, `propagation_mode = "host-to-task"`},
		{proto.Mount{PropagationMode: "bidirectional"}, `propagation_mode = "bidirectional"`},
		{proto.Mount{XXX_unrecognized: label("Z")}, `selinux_label = "Z"`},
	} {
		cfg := twoPorts()
		c.m.TaskPath, c.m.HostPath = "/data", "/srv/data"
		cfg.Mounts = []*proto.Mount{&c.m}
		_, err := spec(cfg, TaskConfig{Image: "x"})
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), "/data: "+c.want) {
			t.Errorf("%v: %v", &c.m, err)
		}
	}
}

// A plugin that is no root's is refused when the agent begins, in words of the fault.
func TestInitNeedsRoot(t *testing.T) {
	if os.Getenv("FREEJAIL_TEST_INIT") != "" {
		if err := (&Driver{}).init(); err == nil || !strings.Contains(err.Error(), "needs root") {
			t.Errorf("init: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root becomes another user")
	}
	if err := new(Driver).init(); err != nil {
		t.Errorf("as root: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp("/tmp", "fjinit")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err := errors.Join(err, file.Chmod(0o755), file.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file.Name(), "-test.run", "^TestInitNeedsRoot$")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "FREEJAIL_TEST_INIT=1", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
