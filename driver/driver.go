// Package driver is freejail's Nomad task driver: Nomad's contract translated
// into calls on the daemon. It keeps nothing that Nomad or the daemon does not
// know, so it may be killed at any time.
package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/hashicorp/nomad/plugins/shared/structs"
	sproto "github.com/hashicorp/nomad/plugins/shared/structs/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/signals"
	"github.com/freejail/freejail/internal/spans"
)

// Name is what jobs say: driver = "freejail".
const Name = "freejail"

// apiVersion is the only one that Nomad's driver plugins have.
const apiVersion = "v0.1.0"

// Driver serves Nomad's driver protocol itself: the SDK's own server does not
// compile for FreeBSD. Calls that it does not have are answered as unimplemented,
// which agents accept; those of newer agents are in newer.go.
type Driver struct {
	proto.UnimplementedDriverServer
	version string
	log     hclog.Logger
	spans   *spans.Exporter // nil where starts are not traced

	mu    sync.Mutex
	cfg   Config
	calls *client.Client

	ownerTold bool

	host *hostEnds
	ends *taskEnds

	usage usage
}

var (
	_ proto.DriverServer = (*Driver)(nil)
	_ base.BasePlugin    = (*Driver)(nil)
)

// New returns the driver. It does nothing until Nomad configures it.
func New(log hclog.Logger, version string) *Driver {
	d := &Driver{version: version, log: log.Named(Name), cfg: Config{Socket: client.DefaultSocket},
		calls: client.New(client.DefaultSocket), host: newHostEnds()}
	d.ends = newTaskEnds(d.daemon, d.seek)
	d.usage = usage{daemon: d.daemon, turn: make(chan struct{}, 1)}
	return d
}

// StartedByNomad tells whether this process was started as a plugin.
func StartedByNomad() bool {
	return os.Getenv(base.Handshake.MagicCookieKey) == base.Handshake.MagicCookieValue
}

// Serve speaks to the Nomad agent that started this process until it ends.
func Serve(version string) {
	// The next agent takes over what a killed one left.
	signals.OutliveReaders()
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true}) // the agent filters
	d := New(log, version)
	d.openSpans()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: base.Handshake,
		Plugins: plugin.PluginSet{
			base.PluginTypeBase:   &base.PluginBase{Impl: d},
			base.PluginTypeDriver: grpcPlugin{d: d},
		},
		GRPCServer: d.grpcServer,
		Logger:     log,
	})
	if err := d.spans.Flush(); err != nil {
		log.Warn("spans are lost", "error", err)
	}
}

// openSpans has starts be traced, where the agent's environment names a collector.
func (d *Driver) openSpans() {
	say := func(err error) { d.log.Warn("spans are not sent", "error", err) }
	var err error
	if d.spans, err = spans.Open(context.Background(), "freejail-plugin", d.version, "", say); err != nil {
		say(err)
	}
}

// grpcPlugin is how go-plugin comes to the driver.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	d *Driver
}

func (p grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	proto.RegisterDriverServer(s, p.d)
	return nil
}

func (grpcPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is the plugin, not the agent")
}

// PluginInfo tells Nomad which plugin this is.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{Type: base.PluginTypeDriver, PluginApiVersions: []string{apiVersion},
		PluginVersion: pluginVersion(d.version), Name: Name}, nil
}

var (
	numbered = regexp.MustCompile(`^v?\d+\.\d+\.\d+`)
	notMeta  = regexp.MustCompile(`[^0-9A-Za-z.-]+`)
)

// pluginVersion is a version that agents accept: they refuse a plugin whose
// version is not semantic, as that of a build without a tag.
func pluginVersion(v string) string {
	if numbered.MatchString(v) {
		return v
	}
	return "0.0.0+" + notMeta.ReplaceAllString(v, "-")
}

// ConfigSchema is the plugin block's.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) { return configSpec, nil }

// SetConfig is also called to validate: it has no effect but to remember.
func (d *Driver) SetConfig(c *base.Config) error {
	var cfg Config
	if len(c.PluginConfig) != 0 {
		if err := base.MsgPackDecode(c.PluginConfig, &cfg); err != nil {
			return err
		}
	}
	if cfg.Socket == "" {
		cfg.Socket = client.DefaultSocket
	}
	if !filepath.IsAbs(cfg.Socket) {
		return fmt.Errorf("socket %q is not an absolute path", cfg.Socket)
	}
	if cfg.Config != "" && !filepath.IsAbs(cfg.Config) {
		return fmt.Errorf("config %q is not an absolute path", cfg.Config)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cfg, d.calls = cfg, client.New(cfg.Socket)
	return nil
}

// TaskConfigSchema is that of a task's config block.
func (d *Driver) TaskConfigSchema(context.Context,
	*proto.TaskConfigSchemaRequest) (*proto.TaskConfigSchemaResponse, error) {
	return &proto.TaskConfigSchemaResponse{Spec: taskConfigSpec}, nil
}

// Capabilities: the image is the root, so Nomad tells tasks the paths inside.
func (d *Driver) Capabilities(context.Context, *proto.CapabilitiesRequest) (*proto.CapabilitiesResponse, error) {
	cfg := d.config()
	c := &proto.DriverCapabilities{SendSignals: true, Exec: true, FsIsolation: proto.DriverCapabilities_IMAGE,
		NetworkIsolationModes: []proto.NetworkIsolationSpec_NetworkIsolationMode{proto.NetworkIsolationSpec_HOST},
		DisableLogCollection:  cfg.NoLogs}
	if cfg.NomadUsers {
		c.XXX_unrecognized = dynamicUsers
	}
	return &proto.CapabilitiesResponse{Capabilities: c}, nil
}

func (d *Driver) config() Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// daemon keeps its connections between calls.
func (d *Driver) daemon() *client.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls
}

// fingerprintEvery is how often the daemon is asked after its health.
const fingerprintEvery = 5 * time.Second

// Fingerprint tells the node's attributes and health, and again every five seconds.
func (d *Driver) Fingerprint(_ *proto.FingerprintRequest, stream proto.Driver_FingerprintServer) error {
	ctx := stream.Context()
	for {
		if err := stream.Send(d.fingerprint(ctx)); err != nil {
			return err
		}
		if !client.Pause(ctx, fingerprintEvery) {
			return nil
		}
	}
}

func (d *Driver) fingerprint(ctx context.Context) *proto.FingerprintResponse {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	info, err := d.waitRecovered(ctx)
	if err != nil {
		return &proto.FingerprintResponse{Health: proto.FingerprintResponse_UNHEALTHY,
			HealthDescription: printable.Flat(err.Error())}
	}
	text := structs.NewStringAttribute
	attrs := map[string]*structs.Attribute{
		"driver.freejail":                structs.NewBoolAttribute(true),
		"driver.freejail.version":        text(info.Version),
		"driver.freejail.storage":        text(info.Storage),
		"driver.freejail.policy":         text(info.PolicyDigest),
		"driver.freejail.plugin.version": text(d.version),
	}
	for k, v := range info.Features {
		attrs["driver.freejail."+k] = text(v)
	}
	for name, mode := range info.Networks {
		attrs["driver.freejail.network."+name] = text(mode)
	}
	fp := &proto.FingerprintResponse{Attributes: structs.ConvertStructAttributeMap(attrs),
		Health: proto.FingerprintResponse_HEALTHY, HealthDescription: "Healthy"}
	if !info.Healthy {
		fp.Health, fp.HealthDescription = proto.FingerprintResponse_UNHEALTHY, printable.Flat(info.Reason)
	} else if info.PolicyError != "" {
		fp.HealthDescription = printable.Flat(info.PolicyError)
	}
	return fp
}

// TaskEvents passes on what the daemon tells of the tasks that are Nomad's.
func (d *Driver) TaskEvents(_ *proto.TaskEventsRequest, stream proto.Driver_TaskEventsServer) error {
	ctx := stream.Context()
	after := d.lastEvent(ctx)
	shared := d.host.listen(stream)
	defer d.host.leave(shared)
	for {
		var lost error // the agent's end of the stream
		err := d.daemon().Events(ctx, after, true, func(e client.Event) error {
			after = e.Seq
			if e.Labels["nomad_task_id"] == "" {
				return nil
			}
			lost = shared.Send(&proto.DriverTaskEvent{TaskId: e.Labels["nomad_task_id"], TaskName: e.Labels["task"],
				AllocId: e.Labels["alloc_id"], Timestamp: timestamppb.New(e.At), Message: e.Message,
				Annotations: map[string]string{"kind": e.Kind}})
			return lost
		})
		if lost != nil {
			return lost
		}
		d.log.Trace("event stream ended", "error", err)
		if !client.Pause(ctx, time.Second) {
			return nil
		}
	}
}

// lastEvent is the number of the newest event: those after it are new to the agent.
// Of a daemon that is not there yet all are.
func (d *Driver) lastEvent(ctx context.Context) (last uint64) {
	err := d.daemon().Events(ctx, 0, false, func(e client.Event) error {
		last = e.Seq
		return nil
	})
	if err != nil {
		d.log.Trace("no events yet", "error", err)
	}
	return last
}

// failure is err as the agent understands it: whether another try may help,
// and what the daemon did not know.
func failure(err error) error {
	var ce *client.Error
	switch known := errors.As(err, &ce); {
	case err == nil:
		return nil
	case known && ce.Code == client.CodeNotFound:
		return status.Error(codes.NotFound, printable.Error(err))
	case known && ce.Code != client.CodeUnavailable && ce.Code != client.CodeInternal:
		return err
	}
	st, detailed := status.New(codes.FailedPrecondition, printable.Error(err)).
		WithDetails(&sproto.RecoverableError{Recoverable: true})
	if detailed != nil {
		return err
	}
	return st.Err()
}
