package driver

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/freejail/freejail/daemon/client"
)

// Config is the plugin's block in Nomad's agent configuration.
type Config struct {
	Socket    string        `codec:"socket"`
	Config    string        `codec:"config"`
	AutoStart bool          `codec:"autostart"`
	LogFile   string        `codec:"log_file"`
	Volumes   volumesConfig `codec:"volumes"`
}

type volumesConfig struct {
	Enabled bool `codec:"enabled"`
}

var configSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"socket":    hclspec.NewDefault(hclspec.NewAttr("socket", "string", false), hclspec.NewLiteral(`"`+client.DefaultSocket+`"`)),
	"config":    hclspec.NewAttr("config", "string", false),
	"log_file":  hclspec.NewDefault(hclspec.NewAttr("log_file", "string", false), hclspec.NewLiteral(`"/var/log/freejail.log"`)),
	"autostart": hclspec.NewDefault(hclspec.NewAttr("autostart", "bool", false), hclspec.NewLiteral("true")),
	"volumes": hclspec.NewDefault(hclspec.NewBlock("volumes", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"enabled": hclspec.NewDefault(hclspec.NewAttr("enabled", "bool", false), hclspec.NewLiteral("true")),
	})), hclspec.NewLiteral("{ enabled = true }")),
})

// TaskConfig is the config block of a job's task.
type TaskConfig struct {
	Image      string            `codec:"image"`
	ForcePull  bool              `codec:"force_pull"`
	PullWait   string            `codec:"image_pull_timeout"`
	Auth       authConfig        `codec:"auth"`
	Entrypoint []string          `codec:"entrypoint"`
	Command    string            `codec:"command"`
	Args       []string          `codec:"args"`
	WorkDir    string            `codec:"work_dir"`
	Hostname   string            `codec:"hostname"`
	Parameters map[string]string `codec:"parameters"`
	Ports      map[string]string `codec:"ports"` // manifest's name -> Nomad's label
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

type mountConfig struct {
	Name     string `codec:"name"`
	Source   string `codec:"source"`
	Target   string `codec:"target"`
	ReadOnly bool   `codec:"readonly"`
	SetUID   bool   `codec:"suid"` // let set-uid programs of it work
}

type servicesConfig struct {
	Disabled bool            `codec:"disabled"`
	Ports    []serviceConfig `codec:"port"`
}

type serviceConfig struct {
	Port     string   `codec:"name"`
	Disabled bool     `codec:"disabled"`
	Service  string   `codec:"service"`
	Tags     []string `codec:"tags"`
	Address  string   `codec:"address"`
}

func attr(name, typ string) *hclspec.Spec { return hclspec.NewAttr(name, typ, false) }

// attrs is a block of any names. In a job file it may be an attribute too:
// Nomad hands over its value as a list of one map, which is no map(string).
func attrs(name string) *hclspec.Spec { return hclspec.NewBlockAttrs(name, "string", false) }

var taskConfigSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"image":              hclspec.NewAttr("image", "string", true),
	"force_pull":         attr("force_pull", "bool"),
	"image_pull_timeout": hclspec.NewDefault(attr("image_pull_timeout", "string"), hclspec.NewLiteral(`"5m"`)),
	"auth": hclspec.NewBlock("auth", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"username": attr("username", "string"), "password": attr("password", "string"),
	})),
	"entrypoint":     attr("entrypoint", "list(string)"),
	"command":        attr("command", "string"),
	"args":           attr("args", "list(string)"),
	"work_dir":       attr("work_dir", "string"),
	"hostname":       attr("hostname", "string"),
	"parameters":     attrs("parameters"),
	"ports":          attrs("ports"),
	"volumes":        attr("volumes", "list(string)"),
	"tmpfs":          attr("tmpfs", "list(string)"),
	"devfs":          attr("devfs", "list(string)"),
	"allow":          attr("allow", "list(string)"),
	"jail":           attrs("jail"),
	"sysctl":         attrs("sysctl"),
	"sysvipc":        attrs("sysvipc"),
	"storage":        attr("storage", "string"),
	"root":           attr("root", "string"),
	"wait":           attr("wait", "string"),
	"pids_limit":     attr("pids_limit", "number"),
	"open_files":     attr("open_files", "number"),
	"disk":           attr("disk", "string"),
	"cpu_hard_limit": attr("cpu_hard_limit", "bool"),
	"mount": hclspec.NewBlockList("mount", hclspec.NewObject(map[string]*hclspec.Spec{
		"name": attr("name", "string"), "source": hclspec.NewAttr("source", "string", true), "target": attr("target", "string"), "readonly": attr("readonly", "bool"), "suid": attr("suid", "bool"),
	})),
	"services": hclspec.NewBlock("services", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"disabled": attr("disabled", "bool"),
		"port": hclspec.NewBlockList("port", hclspec.NewObject(map[string]*hclspec.Spec{
			"name": hclspec.NewAttr("name", "string", true), "disabled": attr("disabled", "bool"), "service": attr("service", "string"),
			"tags": attr("tags", "list(string)"), "address": attr("address", "string"),
		})),
	})),
})

// validate finds what the schema cannot say.
func (c *TaskConfig) validate(plugin Config) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.WorkDir != "" && !filepath.IsAbs(c.WorkDir) {
		bad("work_dir %q is not an absolute path in the jail", c.WorkDir)
	}
	if d, err := time.ParseDuration(c.PullWait); c.PullWait != "" && (err != nil || d <= 0) {
		bad("image_pull_timeout %q is no time such as 5m", c.PullWait)
	}
	if (c.Auth.Username == "") != (c.Auth.Password == "") {
		bad("auth: it needs both username and password")
	}
	if c.Wait != "" && c.Wait != "main" && c.Wait != "all" {
		bad("wait %q is neither main nor all", c.Wait)
	}
	if _, err := c.diskBytes(); err != nil {
		bad("%w", err)
	}
	if c.Root != "" && c.Root != "nfs" && !strings.HasPrefix(c.Root, "nfs://") {
		bad("root %q is neither nfs nor nfs://server/path", c.Root)
	}
	if c.Root != "" && c.Storage != "" && c.Root != c.Storage {
		bad("root %q and storage %q say two things about one root", c.Root, c.Storage)
	}
	if (len(c.Volumes) > 0 || len(c.Mounts) > 0) && !plugin.Volumes.Enabled {
		bad("volumes and mount are switched off on this node (plugin config: volumes { enabled })")
	}
	for _, v := range c.Volumes {
		if p := strings.Split(v, ":"); len(p) < 2 || len(p) > 3 || len(p) == 3 && p[2] != "ro" && p[2] != "rw" {
			bad("volumes: %q: want source:target or source:target:ro", v)
		}
	}
	for _, m := range c.Mounts {
		if m.Target == "" && m.Name == "" {
			bad("mount of %s: give a target, or the name of one of the image's volumes", m.Source)
		}
	}
	for k, v := range c.SysVIPC {
		if k != "shm" && k != "msg" && k != "sem" || v != "new" && v != "inherit" {
			bad("sysvipc: %s = %q: want shm, msg or sem to be new or inherit", k, v)
		}
	}
	return errors.Join(errs...)
}

// diskBytes reads disk; none is 0.
func (c *TaskConfig) diskBytes() (int64, error) {
	if c.Disk == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(c.Disk)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("disk %q is not a size such as \"1GiB\"", c.Disk)
	}
	return n, nil
}

// volumes are the job's mounts; a relative source lies in the task's own
// directory, as with other drivers.
func (c *TaskConfig) volumes(taskDir string) []client.Mount {
	var out []client.Mount
	host := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(taskDir, filepath.Join("/", p))
	}
	for _, v := range c.Volumes {
		p := strings.Split(v, ":")
		out = append(out, client.Mount{Source: host(p[0]), Target: p[1], ReadOnly: len(p) == 3 && p[2] == "ro"})
	}
	for _, m := range c.Mounts {
		v := client.Mount{Name: m.Name, Source: host(m.Source), Target: m.Target, ReadOnly: m.ReadOnly}
		if m.SetUID {
			v.Options = "suid"
		}
		out = append(out, v)
	}
	for _, t := range c.Tmpfs {
		target, options, _ := strings.Cut(t, ":")
		out = append(out, client.Mount{Type: "tmpfs", Source: "tmpfs", Target: target, Options: options})
	}
	return out
}
