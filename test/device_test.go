package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device/proto"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"google.golang.org/grpc"

	"github.com/freejail/freejail/internal/testcluster"
	"github.com/freejail/freejail/internal/testimage"
)

// devices is a device plugin of Nomad's, of one device in several ways to give it.
type devices struct {
	goplugin.NetRPCUnsupportedPlugin
	proto.DevicePluginServer
	node, dir string // on the host
}

const vendor = "freejail/node/"

func (d devices) reservations() map[string]*proto.DeviceSpec {
	return map[string]*proto.DeviceSpec{
		"good":      {HostPath: d.node, TaskPath: d.node, Permissions: "rw"},
		"elsewhere": {HostPath: d.node, TaskPath: "/dev/other", Permissions: "rw"},
		"refused":   {HostPath: "/dev/random", TaskPath: "/dev/random", Permissions: "rw"},
	}
}

func (d devices) Fingerprint(_ *proto.FingerprintRequest, s proto.DevicePlugin_FingerprintServer) error {
	groups := []*proto.DeviceGroup{}
	for name := range d.reservations() {
		groups = append(groups, &proto.DeviceGroup{Vendor: "freejail", DeviceType: "node", DeviceName: name,
			Devices: []*proto.DetectedDevice{{ID: name, Healthy: true}}})
	}
	if err := s.Send(&proto.FingerprintResponse{DeviceGroup: groups}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (d devices) Reserve(_ context.Context, r *proto.ReserveRequest) (*proto.ReserveResponse, error) {
	return &proto.ReserveResponse{ContainerRes: &proto.ContainerReservation{
		Envs:    map[string]string{"TEST_DEVICE": r.DeviceIds[0]},
		Mounts:  []*proto.Mount{{HostPath: d.dir, TaskPath: "/usr/lib/device", ReadOnly: true}},
		Devices: []*proto.DeviceSpec{d.reservations()[r.DeviceIds[0]]}}}, nil
}

func (d devices) Stats(_ *proto.StatsRequest, s proto.DevicePlugin_StatsServer) error {
	<-s.Context().Done()
	return nil
}

func (d devices) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{Type: base.PluginTypeDevice, PluginApiVersions: []string{"v0.1.0"},
		PluginVersion: "v0.1.0", Name: "devices"}, nil
}

func (d devices) ConfigSchema() (*hclspec.Spec, error) { return hclspec.NewObject(nil), nil }

func (d devices) SetConfig(*base.Config) error { return nil }

func (d devices) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	proto.RegisterDevicePluginServer(s, d)
	return nil
}

func (d devices) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("this is the plugin")
}

// devicePlugin is a program that Nomad's agent starts.
func devicePlugin(node, dir string) int {
	d := devices{node: node, dir: dir}
	goplugin.Serve(&goplugin.ServeConfig{HandshakeConfig: base.Handshake, GRPCServer: goplugin.DefaultGRPCServer,
		Plugins: goplugin.PluginSet{base.PluginTypeBase: &base.PluginBase{Impl: d}, base.PluginTypeDevice: d},
		Logger:  hclog.New(&hclog.LoggerOptions{JSONFormat: true})})
	return 0
}

// A device block of a job has the task see a device, with what its plugin mounts and sets besides, if
// the host's policy permits it.
func TestDevicePlugin(t *testing.T) {
	bin := program(t, "NOMAD_BIN")
	node, lib := "/dev/fuse", tempDir(t)
	if runtime.GOOS == "freebsd" {
		node = "/dev/bpf"
	}
	if _, err := os.Stat(node); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	check(t, err)
	check(t, os.WriteFile(filepath.Join(lib, "firmware"), []byte("the plugin's\n"), 0o644))
	c := startClusterOf(t, bin, func(cfg *testcluster.Config) {
		cfg.Plugins = map[string]string{"devices": self}
		cfg.More += fmt.Sprintf("plugin \"devices\" {\n args = [\"device-plugin\", %q, %q]\n}\n", node, lib)
	})
	c.imports(t, "probe", testimage.Spec{Manifest: manifest})
	permit := c.configurable(t)
	ask := func(name string) *nomad.Job {
		j, task := job("device-"+name, "device", node)
		task.Resources.Devices = []*nomad.RequestedDevice{{Name: vendor + name, Count: ptr(uint64(1))}}
		c.run(t, batch(j))
		return j
	}
	rule := "path " + strings.TrimPrefix(node, "/dev/") + " unhide"
	wantMessage(t, c.one(t, ask("good"), "failed"), rule, "no permit covers it")
	permit("permit {\n devfs = [\"" + rule + "\"]\n}\n")
	c.stop(t, "device-good")
	a := c.one(t, ask("good"), "complete")
	for _, want := range []string{"open: <nil>", "TEST_DEVICE=good", "the plugin's"} {
		c.awaitLog(t, a, want)
	}
	wantMessage(t, c.one(t, ask("elsewhere"), "failed"), "/dev/other in the task", "at their own paths alone")
	wantMessage(t, c.one(t, ask("refused"), "failed"), "path random unhide", "no permit covers it")
}
