package driver

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/freejail/freejail/daemon/client"
)

// Config is the plugin's block in Nomad's agent configuration.
type Config struct {
	Socket     string        `codec:"socket"` // empty is the client's default
	Config     string        `codec:"config"`
	AutoStart  bool          `codec:"autostart" default:"true"`
	LogFile    string        `codec:"log_file" default:"\"/var/log/freejail.log\""`
	Volumes    volumesConfig `codec:"volumes" default:"{ enabled = true }"`
	NoLogs     bool          `codec:"disable_log_collection"`
	NomadUsers bool          `codec:"dynamic_workload_users"`
}

type volumesConfig struct {
	Enabled bool `codec:"enabled" default:"true"`
}

// TaskConfig is the config block of a job's task.
type TaskConfig struct {
	Image      string            `codec:"image" required:"true"`
	ForcePull  bool              `codec:"force_pull"`
	PullWait   string            `codec:"image_pull_timeout" default:"\"5m\""`
	Auth       authConfig        `codec:"auth"`
	Entrypoint []string          `codec:"entrypoint"`
	Command    string            `codec:"command"`
	Args       []string          `codec:"args"`
	WorkDir    string            `codec:"work_dir"`
	Hostname   string            `codec:"hostname"`
	DNS        dnsConfig         `codec:"dns"`
	ExtraHosts []string          `codec:"extra_hosts"` // NAME:ADDRESS
	Parameters map[string]string `codec:"parameters"`
	Network    string            `codec:"network"` // of the host's, by its name
	Address    []string          `codec:"address"` // of its pools
	Publish    []string          `codec:"publish"` // see client.ParsePublication
	Share      string            `codec:"share"`   // group
	Ports      any               `codec:"ports"`   // labels, or names -> labels: see readPorts
	Volumes    []string          `codec:"volumes"`
	Mounts     []mountConfig     `codec:"mount"`
	Tmpfs      []string          `codec:"tmpfs"`
	Devfs      []string          `codec:"devfs"`
	Allow      []string          `codec:"allow"`
	Jail       map[string]string `codec:"jail"`
	Sysctl     map[string]string `codec:"sysctl"`
	SysVIPC    map[string]string `codec:"sysvipc"`
	Storage    string            `codec:"storage"`
	Root       string            `codec:"root"` // nfs, or nfs://server/path: the same as storage
	Wait       string            `codec:"wait"`
	PidsLimit  int64             `codec:"pids_limit"`
	OpenFiles  int64             `codec:"open_files"`
	Disk       string            `codec:"disk"` // "1GiB": what may be written to the root
	CPUHard    bool              `codec:"cpu_hard_limit"`
	Services   servicesConfig    `codec:"services"`
}

type authConfig struct {
	Username string `codec:"username"`
	Password string `codec:"password"`
}

type dnsConfig struct {
	Servers  []string `codec:"servers"`
	Searches []string `codec:"searches"`
	Options  []string `codec:"options"`
}

type mountConfig struct {
	Name     string `codec:"name"`
	Source   string `codec:"source" required:"true"`
	Target   string `codec:"target"`
	ReadOnly bool   `codec:"readonly"`
	SetUID   bool   `codec:"suid"` // let set-uid programs of it work
}

type servicesConfig struct {
	Disabled bool            `codec:"disabled"`
	Delay    string          `codec:"shutdown_delay"`
	Ports    []serviceConfig `codec:"port"`
}

type serviceConfig struct {
	Port     string   `codec:"name" required:"true"`
	Disabled bool     `codec:"disabled"`
	Service  string   `codec:"service"`
	Tags     []string `codec:"tags"`
	Address  string   `codec:"address"`
}

var (
	configSpec     = blockSpec(reflect.TypeFor[Config]())
	taskConfigSpec = blockSpec(reflect.TypeFor[TaskConfig]())
)

// blockSpec is the schema of a block: its fields by the names that codec gives them,
// with what their tags say of them.
func blockSpec(block reflect.Type) *hclspec.Spec {
	fields := map[string]*hclspec.Spec{}
	for _, f := range reflect.VisibleFields(block) {
		name, required := f.Tag.Get("codec"), f.Tag.Get("required") != ""
		fields[name] = fieldSpec(name, f.Type, required)
		if value, has := f.Tag.Lookup("default"); has {
			fields[name] = hclspec.NewDefault(fields[name], hclspec.NewLiteral(value))
		}
	}
	return hclspec.NewObject(fields)
}

func fieldSpec(name string, t reflect.Type, required bool) *hclspec.Spec {
	switch t.Kind() {
	case reflect.Struct:
		return hclspec.NewBlock(name, required, blockSpec(t))
	case reflect.Map:
		// A block of any names. In a job file it may be an attribute too: Nomad hands
		// over its value as a list of one map, which is no map(string).
		return hclspec.NewBlockAttrs(name, "string", required)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return hclspec.NewBlockList(name, blockSpec(t.Elem()))
		}
		return hclspec.NewAttr(name, "list(string)", required)
	case reflect.Interface: // its reader tells what it can be
		return hclspec.NewAttr(name, "any", required)
	case reflect.Bool:
		return hclspec.NewAttr(name, "bool", required)
	case reflect.Int64:
		return hclspec.NewAttr(name, "number", required)
	}
	return hclspec.NewAttr(name, "string", required)
}

// validate finds what the schema cannot say.
func (c *TaskConfig) validate(plugin Config) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.WorkDir != "" && !filepath.IsAbs(c.WorkDir) {
		bad("work_dir %q is not an absolute path in the jail", c.WorkDir)
	}
	if d, err := time.ParseDuration(c.PullWait); c.PullWait != "" && (err != nil || d <= 0) {
		bad("image_pull_timeout %q is not a valid duration (for example 5m)", c.PullWait)
	}
	if d, err := time.ParseDuration(c.Services.Delay); c.Services.Delay != "" && (err != nil || d < 0) {
		bad("services: shutdown_delay %q is not a valid duration (for example 5s)", c.Services.Delay)
	}
	if (c.Auth.Username == "") != (c.Auth.Password == "") {
		bad("auth: both username and password are required")
	}
	if c.Wait != "" && c.Wait != "main" && c.Wait != "all" {
		bad("wait %q: expected main or all", c.Wait)
	}
	if c.Root != "" && c.Root != "nfs" && !strings.HasPrefix(c.Root, "nfs://") {
		bad("root %q: expected nfs or nfs://server/path", c.Root)
	}
	if c.Root != "" && c.Storage != "" && c.Root != c.Storage {
		bad("root %q and storage %q contradict each other", c.Root, c.Storage)
	}
	if (len(c.Volumes) > 0 || len(c.Mounts) > 0) && !plugin.Volumes.Enabled {
		bad("volumes and mount are disabled on this node (plugin config: volumes { enabled })")
	}
	for _, m := range c.Mounts {
		if m.Target == "" && m.Name == "" {
			bad("mount of %s: expected a target, or the name of one of the image's volumes", m.Source)
		}
	}
	if err := client.DNS(c.DNS).Check(); err != nil {
		bad("%w", err)
	}
	if _, err := client.ParseHosts(c.ExtraHosts); err != nil {
		bad("extra_hosts: %w", err)
	}
	if c.Share != "" && c.Share != shareGroup {
		bad("share %q: expected group", c.Share)
	}
	for k, v := range c.SysVIPC {
		if k != "shm" && k != "msg" && k != "sem" || v != "new" && v != "inherit" {
			bad("sysvipc: %s = %q: expected shm, msg or sem to be new or inherit", k, v)
		}
	}
	return errors.Join(errs...)
}

// volumes are the job's mounts; a relative source lies in the task's own
// directory, as with other drivers.
func (c *TaskConfig) volumes(taskDir string) (out []client.Mount, err error) {
	host := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(taskDir, filepath.Join("/", p))
	}
	for _, v := range c.Volumes {
		m, err := client.ParseVolume(v)
		if err != nil {
			return nil, fmt.Errorf("volumes: %w", err)
		}
		m.Source = host(m.Source)
		out = append(out, m)
	}
	for _, m := range c.Mounts {
		v := client.Mount{Name: m.Name, Source: host(m.Source), Target: m.Target, ReadOnly: m.ReadOnly}
		if m.SetUID {
			v.Options = "suid"
		}
		out = append(out, v)
	}
	for _, t := range c.Tmpfs {
		out = append(out, client.ParseTmpfs(t))
	}
	return out, nil
}
