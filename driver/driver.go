// Package driver is freejail's Nomad task driver: Nomad's contract translated
// into calls on the daemon. It keeps nothing that Nomad or the daemon does not
// know, so it may be killed at any time.
package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/freejail/freejail/daemon/client"
)

// Name is what jobs say: driver = "freejail".
const Name = "freejail"

// Driver implements drivers.DriverPlugin.
type Driver struct {
	version string
	log     hclog.Logger

	mu    sync.Mutex
	cfg   Config
	calls *client.Client
	tasks map[string]string // Nomad's task id -> the daemon's
	cpu   cpuMeter
}

var _ drivers.DriverPlugin = (*Driver)(nil)

// NewPlugin returns the driver. It does nothing until Nomad configures it.
func NewPlugin(log hclog.Logger, version string) drivers.DriverPlugin {
	return &Driver{version: version, log: log.Named(Name), cfg: Config{Socket: client.DefaultSocket}, calls: client.New(client.DefaultSocket), tasks: map[string]string{},
		cpu: cpuMeter{last: map[string]client.Usage{}}}
}

// StartedByNomad tells whether this process was started as a plugin.
func StartedByNomad() bool {
	return os.Getenv(base.Handshake.MagicCookieKey) == base.Handshake.MagicCookieValue
}

// Serve speaks to the Nomad agent that started this process until it ends.
func Serve(version string) {
	plugins.Serve(func(log hclog.Logger) any { return NewPlugin(log, version) })
}

// PluginInfo tells Nomad which plugin this is.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{Type: base.PluginTypeDriver, PluginApiVersions: []string{drivers.ApiVersion010}, PluginVersion: d.version, Name: Name}, nil
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
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) { return taskConfigSpec, nil }

// Capabilities: the image is the root, so Nomad tells tasks the paths inside.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	return &drivers.Capabilities{SendSignals: true, Exec: true, FSIsolation: drivers.FSIsolationImage,
		NetIsolationModes: []drivers.NetIsolationMode{drivers.NetIsolationModeHost}, MountConfigs: drivers.MountConfigSupportAll}, nil
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

// Fingerprint tells the node's attributes and health, again when they change.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	out := make(chan *drivers.Fingerprint)
	go func() {
		defer close(out)
		for {
			fp := d.fingerprint(ctx)
			select {
			case out <- fp:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(fingerprintEvery):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (d *Driver) fingerprint(ctx context.Context) *drivers.Fingerprint {
	cctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	info, err := d.ensureDaemon(cctx)
	if err != nil {
		return &drivers.Fingerprint{Health: drivers.HealthStateUnhealthy, HealthDescription: err.Error()}
	}
	text := func(s string) *pstructs.Attribute { return pstructs.NewStringAttribute(s) }
	attrs := map[string]*pstructs.Attribute{
		"driver.freejail":                pstructs.NewBoolAttribute(true),
		"driver.freejail.version":        text(info.Version),
		"driver.freejail.storage":        text(info.Storage),
		"driver.freejail.policy":         text(info.PolicyDigest),
		"driver.freejail.plugin.version": text(d.version),
	}
	for k, v := range info.Features {
		attrs["driver.freejail."+k] = text(v)
	}
	fp := &drivers.Fingerprint{Attributes: attrs, Health: drivers.HealthStateHealthy, HealthDescription: drivers.DriverHealthy}
	if !info.Healthy {
		fp.Health, fp.HealthDescription = drivers.HealthStateUnhealthy, info.Reason
	} else if info.PolicyError != "" {
		fp.HealthDescription = info.PolicyError
	}
	return fp
}

// TaskEvents passes on what the daemon tells of the tasks that are Nomad's.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	out := make(chan *drivers.TaskEvent)
	go func() {
		defer close(out)
		after := uint64(time.Now().UnixMicro())
		for ctx.Err() == nil {
			err := d.daemon().Events(ctx, after, true, func(e client.Event) error {
				after = e.Seq
				if e.Labels["nomad_task_id"] == "" {
					return nil
				}
				select {
				case out <- &drivers.TaskEvent{TaskID: e.Labels["nomad_task_id"], TaskName: e.Labels["task"], AllocID: e.Labels["alloc_id"],
					Timestamp: e.At, Message: e.Message, Annotations: map[string]string{"kind": e.Kind}}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			d.log.Trace("event stream ended", "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}
