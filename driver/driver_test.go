package driver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testtext"
)

// The test binary is also the plugin.
func TestMain(m *testing.M) {
	if StartedByNomad() {
		Serve("0a1b2c3-dirty")
		return
	}
	os.Exit(m.Run())
}

// agentSide is how an agent comes to a driver plugin.
type agentSide struct {
	plugin.NetRPCUnsupportedPlugin
}

func (agentSide) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (agentSide) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

// startPlugin runs the plugin as an agent does.
func startPlugin(t *testing.T) (base.BasePlugin, *grpc.ClientConn) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := plugin.NewClient(&plugin.ClientConfig{HandshakeConfig: base.Handshake, Cmd: exec.Command(self),
		Logger:           hclog.NewNullLogger(),
		Plugins:          plugin.PluginSet{base.PluginTypeBase: &base.PluginBase{}, base.PluginTypeDriver: agentSide{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC}})
	t.Cleanup(c.Kill)
	p, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Dispense(base.PluginTypeBase)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Dispense(base.PluginTypeDriver)
	if err != nil {
		t.Fatal(err)
	}
	return b.(base.BasePlugin), d.(*grpc.ClientConn)
}

// Nobody reads what a plugin writes whose agent was killed: the next agent finds it all the same.
func TestPluginOutlivesItsReader(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), base.Handshake.MagicCookieKey+"="+base.Handshake.MagicCookieValue)
	cmd.Stderr = w
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, r.Close(), cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n') // it has written of itself before
	if err != nil || !strings.Contains(line, "|grpc") {
		t.Errorf("the plugin told %q: %v", line, err)
	}
	err = errors.Join(cmd.Process.Kill(), cmd.Wait())
	if st, is := cmd.ProcessState.Sys().(syscall.WaitStatus); !is || st.Signal() != syscall.SIGKILL {
		t.Errorf("the plugin ended by itself: %v", err)
	}
}

// configure points the plugin to a socket where no daemon answers.
func configure(t *testing.T, b base.BasePlugin, autostart bool) string {
	t.Helper()
	dir := t.TempDir()
	var conf []byte
	if err := base.MsgPackEncode(&conf, map[string]any{"socket": filepath.Join(dir, "s"),
		"log_file": filepath.Join(dir, "log"), "autostart": autostart}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetConfig(&base.Config{PluginConfig: conf,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAsAnAgentSeesIt(t *testing.T) {
	b, conn := startPlugin(t)
	info, err := b.PluginInfo()
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != Name || info.Type != base.PluginTypeDriver || info.PluginVersion != "0.0.0+0a1b2c3-dirty" {
		t.Errorf("info: %+v", info)
	}
	d := proto.NewDriverClient(conn)
	caps, err := d.Capabilities(t.Context(), &proto.CapabilitiesRequest{})
	if err != nil || caps.Capabilities.FsIsolation != proto.DriverCapabilities_IMAGE || !caps.Capabilities.Exec ||
		!caps.Capabilities.SendSignals {
		t.Errorf("capabilities: %v %v", caps, err)
	}
	schema, err := d.TaskConfigSchema(t.Context(), &proto.TaskConfigSchemaRequest{})
	if err != nil || schema.Spec == nil {
		t.Errorf("schema: %v %v", schema, err)
	}
}

// What a job writes is an escape in the errors that Nomad shows.
func TestErrorsAreReadable(t *testing.T) {
	b, conn := startPlugin(t)
	dir := configure(t, b, false)
	d := proto.NewDriverClient(conn)
	for _, conf := range []map[string]any{{"image": "x", "work_dir": testtext.Hostile}, {"image": "x",
		"wait": testtext.Hostile}, {"image": "x", "ports": map[string]string{testtext.Hostile: testtext.Hostile}},
		{"image": "x", "mount": []map[string]any{{"source": testtext.Hostile}}}, {"image": testtext.Hostile},
		{testtext.Hostile: testtext.Hostile}} {
		_, err := d.StartTask(t.Context(), &proto.StartTaskRequest{Task: &proto.TaskConfig{Id: "a/b/" +
			testtext.Harmless, AllocDir: dir, Name: "b", MsgpackDriverConfig: taskConfig(t, conf)}})
		if err == nil {
			t.Errorf("%q was taken", conf)
			continue
		}
		if text := status.Convert(err).Message(); testtext.Forged(text) {
			t.Errorf("a forged line in %q", text)
		} else if r, steers := testtext.Steers(text); steers {
			t.Errorf("%q in %q", r, text)
		}
	}
	for _, err := range []error{errors.New(testtext.Hostile), status.Error(codes.NotFound, testtext.Hostile),
		failure(errors.New(testtext.Hostile))} {
		if r, steers := testtext.Steers(readable(err).Error()); steers {
			t.Errorf("%q in %q", r, readable(err))
		}
	}
	if st := status.Convert(readable(failure(errors.New("x")))); st.Code() != codes.FailedPrecondition ||
		len(st.Details()) != 1 {
		t.Errorf("the code and details are %v", st)
	}
}

// Newer agents have calls and fields that this protocol lacks.
func TestNewerAgent(t *testing.T) {
	b, conn := startPlugin(t)
	configure(t, b, false)
	for call, want := range map[string]codes.Code{"Init": codes.OK, "Shutdown": codes.OK, "Other": codes.Unimplemented} {
		if call == "Init" && os.Geteuid() != 0 {
			want = codes.FailedPrecondition
		}
		err := conn.Invoke(t.Context(), service+call, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want the code %v", call, err, want)
		}
	}
	future := protowire.AppendString(protowire.AppendTag(nil, 4711, protowire.BytesType), "from the future")
	req := &proto.StartTaskRequest{Task: &proto.TaskConfig{Id: "a/b/c",
		MsgpackDriverConfig: taskConfig(t, map[string]any{"work_dir": "here"}), XXX_unrecognized: future}}
	_, err := proto.NewDriverClient(conn).StartTask(t.Context(), req)
	if err == nil || !strings.Contains(err.Error(), `work_dir "here" is not an absolute path`) {
		t.Errorf("a request with an unknown field: %v, want the error of its task config", err)
	}
}

func taskConfig(t *testing.T, v map[string]any) []byte {
	t.Helper()
	var b []byte
	if err := base.MsgPackEncode(&b, v); err != nil {
		t.Fatal(err)
	}
	return b
}

// SetConfig is also how agents validate: it starts nothing.
func TestConfigurationHasNoEffects(t *testing.T) {
	b, _ := startPlugin(t)
	dir := configure(t, b, true)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("SetConfig left %v %v", left, err)
	}
	for name, conf := range map[string]map[string]any{"socket": {"socket": "s"}, "config": {"config": "freejail.hcl"}} {
		err := b.SetConfig(&base.Config{PluginConfig: taskConfig(t, conf),
			AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}})
		if err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("a relative %s: %v", name, err)
		}
	}
}

func TestWithoutADaemon(t *testing.T) {
	b, conn := startPlugin(t)
	dir := configure(t, b, false)
	d := proto.NewDriverClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fps, err := d.Fingerprint(ctx, &proto.FingerprintRequest{})
	if err != nil {
		t.Fatal(err)
	}
	fp, err := fps.Recv()
	if err != nil || fp.Health != proto.FingerprintResponse_UNHEALTHY || !strings.Contains(fp.HealthDescription, dir) {
		t.Errorf("fingerprint: %v %v, want it unhealthy, with the socket's path", fp, err)
	}
	_, err = d.StartTask(ctx, &proto.StartTaskRequest{Task: &proto.TaskConfig{Id: "a/b/c", AllocDir: "/a", Name: "b",
		MsgpackDriverConfig: taskConfig(t, map[string]any{"image": "x"})}})
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || len(st.Details()) != 1 {
		t.Errorf("start: %v, want an error that allows another try", err)
	}
	stream, err := d.ExecTaskStreaming(ctx)
	if err == nil {
		err = stream.Send(&proto.ExecTaskStreamingRequest{Stdin: &proto.ExecTaskStreamingIOOperation{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an exec without a setup: %v", err)
	}
}

// An agent whose input meets the end of an exec's stream forgets the exit code
// if it has not read it yet. So the stream outlasts the input.
func TestExecOutlastsItsInput(t *testing.T) {
	b, conn := startPlugin(t)
	configure(t, b, false)
	stream, err := proto.NewDriverClient(conn).ExecTaskStreaming(t.Context())
	if err == nil { // no command: it ends at once
		err = stream.Send(&proto.ExecTaskStreamingRequest{Setup: &proto.ExecTaskStreamingRequest_Setup{
			TaskId: "a/b/c"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.Exited && m.Result.ExitCode == notFound {
			break
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the stream ended before its input: %v", err)
	case <-time.After(lingering / 4):
	}
	if err := stream.Send(&proto.ExecTaskStreamingRequest{Stdin: &proto.ExecTaskStreamingIOOperation{
		Close: true}}); err != nil {
		t.Errorf("input after the exit: %v", err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestDaemonID(t *testing.T) {
	one, other := daemonID("alloc/web/1"), daemonID("alloc/web/2")
	if one == other || one != daemonID("alloc/web/1") || !strings.HasPrefix(one, "web-") {
		t.Errorf("%s and %s", one, other)
	}
	for id, prefix := range map[string]string{"a/9lives/1": "t9lives-", "a/with space.dot/1": "with-space-dot-",
		"a//1": "t-", "noslash": "task-",
		"a/" + strings.Repeat("x", 200) + "/1": strings.Repeat("x", 40) + "-"} {
		if got := daemonID(id); !strings.HasPrefix(got, prefix) || len(got) > 60 {
			t.Errorf("%q becomes %q, want %q and a hash", id, got, prefix)
		}
	}
}

func TestSpec(t *testing.T) {
	cfg := &proto.TaskConfig{Id: "alloc/web/1", Name: "web", AllocDir: "/n/alloc", User: "www",
		JobName: "the shop", JobId: "shop/periodic-1",
		Mounts: []*proto.Mount{{TaskPath: "/data", HostPath: "/srv/data", Readonly: true}},
		Resources: &proto.Resources{
			AllocatedResources: &proto.AllocatedTaskResources{Cpu: &proto.AllocatedCpuResources{CpuShares: 500},
				Memory: &proto.AllocatedMemoryResources{MemoryMb: 64, MemoryMaxMb: 128}},
			Ports: []*proto.PortMapping{{Label: "http", Value: 20001, HostIp: "10.0.0.1"}}}}
	s, err := spec(cfg, TaskConfig{Image: "local/../../etc/web.tar", Volumes: []string{"local/../../../x:/x:ro"},
		Tmpfs: []string{"/tmp", "/run:size=64m,mode=1777"}})
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Labels; l["job"] != "the shop" || l["job_id"] != "shop/periodic-1" {
		t.Errorf("labels: %q", l)
	}
	if s.Image != "/n/alloc/web/etc/web.tar" {
		t.Errorf("an image in the task's directory leads to %s", s.Image)
	}
	if v := s.Volumes; len(v) != 3 || v[0].Source != "/n/alloc/web/x" || !v[0].ReadOnly || v[1].Target != "/tmp" ||
		v[1].Options != "" ||
		v[2].Target != "/run" || v[2].Options != "size=64m,mode=1777" || v[2].Type != "tmpfs" {
		t.Errorf("a volume in the task's directory leads to %+v", v)
	}
	if l := s.Limits; l.MemoryBytes != 128<<20 || l.MemoryReserveBytes != 64<<20 || l.CPUShares != 500 {
		t.Errorf("limits: %+v", l)
	}
	if p := s.Ports["http"]; p != (client.PortBinding{Address: "10.0.0.1", Port: 20001, Label: "http",
		Offered: true}) {
		t.Errorf("ports: %+v", s.Ports)
	}
	for cores, of := range map[string]string{"": "/sys/fs/cgroup/nomad/shared", "1,2": ""} {
		cfg.Resources.LinuxResources = &proto.LinuxResources{CpusetCpus: cores, CpusetCgroup: "/sys/fs/cgroup/nomad/shared"}
		if l := limits(cfg, TaskConfig{}); l.CPUSet != cores || l.CPUSetOf != of {
			t.Errorf("with the cores %q: %q of %q", cores, l.CPUSet, l.CPUSetOf)
		}
	}
	private := 0
	for _, m := range s.Dirs {
		if m.Private {
			private++
			if m.Target != "/secrets" || m.Source != "/n/alloc/web/secrets" {
				t.Errorf("private: %+v", m)
			}
		}
	}
	if private != 1 || s.Dirs[len(s.Dirs)-1].Target != "/data" {
		t.Errorf("directories: %+v", s.Dirs)
	}
}

func TestDevices(t *testing.T) {
	got, err := devices([]*proto.Device{{HostPath: "/dev/gpu", TaskPath: "/dev/gpu", CgroupPermissions: "rw"},
		{HostPath: "/dev/a/b", CgroupPermissions: "rwm"}})
	want := []client.Device{{Path: "/dev/gpu", Permissions: "rw"}, {Path: "/dev/a/b", Permissions: "rwm"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	_, err = devices([]*proto.Device{{HostPath: "/dev/gpu", TaskPath: "/dev/gpu0"}})
	if err == nil || !strings.Contains(err.Error(), "/dev/gpu0 in the task") {
		t.Errorf("at another path: %v", err)
	}
}

// A root over NFS is asked for by either name, and by one server or another.
func TestRootOverNFS(t *testing.T) {
	cfg := &proto.TaskConfig{Id: "alloc/web/1", Name: "web", AllocDir: "/n/alloc", Resources: &proto.Resources{}}
	for _, tc := range []TaskConfig{{Root: "nfs"}, {Storage: "nfs"}, {Root: "nfs", Storage: "nfs"},
		{Root: "nfs://10.0.0.5/roots"}} {
		tc.Image = "web"
		if err := tc.validate(Config{}); err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		if s, err := spec(cfg, tc); err != nil || !strings.HasPrefix(s.Storage, "nfs") || tc.Root != "" &&
			s.Storage != tc.Root {
			t.Errorf("root %q, storage %q: %q %v", tc.Root, tc.Storage, s.Storage, err)
		}
	}
	for _, tc := range []TaskConfig{{Root: "zfs"}, {Root: "/srv"}, {Root: "nfs", Storage: "zfs"},
		{Root: "nfs://a/b", Storage: "nfs"}} {
		if err := tc.validate(Config{}); err == nil {
			t.Errorf("root %q, storage %q was taken", tc.Root, tc.Storage)
		}
	}
}
