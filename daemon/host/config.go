// Package host is one host as its owner has set it up: its configuration, read
// once into values, what of it is in force while the file changes, and a
// report on what freejail needs there. It knows of no task.
package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/docker/go-units"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// Config is the host's freejail.hcl without its policy blocks, which package
// policy reads from the same file. Sizes are in bytes.
type Config struct {
	Path     string // of the file, absolute; empty for the defaults
	StateDir string
	Socket   string
	// SocketGroup is the number of the group that may use the socket beside root; nil is none.
	SocketGroup *int
	LogLevel    string
	Runc        string // development hosts only
	Storage     Storage
	Devfs       Devfs
	// Securelevel of a jail whose image and job ask for none: -1 to 3, or nil.
	Securelevel *int
	// Networks are those that the file has; DefaultNetwork is that of tasks which name none.
	Networks       []network.Network
	DefaultNetwork string
	Consul         Consul
	Limits         Limits
	GC             GC
	NFS            NFS
	// DefaultRegistry is where images without a registry in their name are
	// looked for, if none of the store has the name: HOST or HOST/PREFIX.
	DefaultRegistry string
	Registries      []registry.Host
	Signers         []Signer
	Metrics         Metrics
	Mirror          Mirror
	Approvers       []Approver // without their keys, which InForce has
	Tracing         string     // URL of a collector of spans; empty is that of the environment, or none

	written *Config // as the file has it, whatever flags have changed
}

// Storage chooses how roots are made.
type Storage struct {
	Driver     string `hcl:"driver,optional"` // auto, zfs, union, readonly, nfs, overlay
	ZFSDataset string `hcl:"zfs_dataset,optional"`
}

// Devfs bounds the rulesets that freejail may make and has the host's own
// rules, which enclose what images ask for.
type Devfs struct {
	devfs.Config
	Open, Close []devfs.Rule
}

// Consul says where services are registered; without an address none are, and the daemon makes
// their checks.
type Consul struct {
	Address   string `hcl:"address,optional"`
	TokenFile string `hcl:"token_file,optional"`
	// Advertise is the address of services whose port names none.
	Advertise string `hcl:"advertise,optional"`
}

// Limits bounds what an image may unpack to, a log may grow to, and a task may
// write to its root.
type Limits struct {
	Image   image.Limits
	LogSize int64
	Disk    int64 // of a task that asks for none; 0 is DiskMax
	DiskMax int64 // that a task may ask for; 0 is no limit
}

// GC says which images that were given by a path, as jobs' artifacts are,
// `freejail gc` forgets. It never forgets those that someone has named.
type GC struct {
	Older   time.Duration // unused for so long; 0 forgets none by age
	MaxSize int64         // of all images, stored and unpacked; 0 is no limit
}

// file is freejail.hcl as it is written.
type file struct {
	StateDir string   `hcl:"state_dir,optional"`
	Socket   string   `hcl:"socket,optional"`
	Group    string   `hcl:"socket_group,optional"`
	LogLevel string   `hcl:"log_level,optional"`
	Runc     string   `hcl:"runc,optional"`
	Storage  *Storage `hcl:"storage,block"`
	Devfs    *struct {
		First    int      `hcl:"first,optional"`
		Last     int      `hcl:"last,optional"`
		MaxSets  int      `hcl:"max_sets,optional"`
		MaxRules int      `hcl:"max_rules,optional"`
		Open     []string `hcl:"open,optional"`
		Close    []string `hcl:"close,optional"`
	} `hcl:"devfs,block"`
	Jail *struct {
		Securelevel *int `hcl:"securelevel,optional"`
	} `hcl:"jail,block"`
	Consul *Consul `hcl:"consul,block"`
	Limits *struct {
		LayerSize string `hcl:"layer_size,optional"`
		ImageSize string `hcl:"image_size,optional"`
		Entries   int64  `hcl:"entries,optional"`
		LogSize   string `hcl:"log_size,optional"`
		Disk      string `hcl:"disk,optional"`
		DiskMax   string `hcl:"disk_max,optional"`
	} `hcl:"limits,block"`
	GC *struct {
		Older   string `hcl:"older,optional"`
		MaxSize string `hcl:"max_size,optional"`
	} `hcl:"gc,block"`
	Metrics         *metricsBlock   `hcl:"metrics,block"`
	Tracing         *tracingBlock   `hcl:"tracing,block"`
	Mirror          *mirrorBlock    `hcl:"mirror,block"`
	NFS             *nfsBlock       `hcl:"nfs,block"`
	Networks        []*networkBlock `hcl:"network,block"`
	DefaultNetwork  hcl.Expression  `hcl:"default_network,optional"`
	DefaultRegistry string          `hcl:"default_registry,optional"`
	Registries      []registryBlock `hcl:"registry,block"`
	Signers         []Signer        `hcl:"signer,block"`
	Approvers       []approverBlock `hcl:"approver,block"`
	Policy          hcl.Body        `hcl:",remain"`
}

// registryBlock has the fields of a registry.Host.
type registryBlock struct {
	Name         string   `hcl:"host,label"`
	PlainHTTP    bool     `hcl:"plain_http,optional"`
	CAFile       string   `hcl:"ca_file,optional"`
	AuthFile     string   `hcl:"auth_file,optional"`
	Username     string   `hcl:"username,optional"`
	PasswordFile string   `hcl:"password_file,optional"`
	Mirrors      []string `hcl:"mirrors,optional"`
}

// DefaultStateDir holds everything that the daemon keeps.
const DefaultStateDir = "/var/db/freejail"

// basicNodes is what every jail may see: the devices of devfsrules_unhide_basic
// and devfsrules_unhide_login in FreeBSD's /etc/defaults/devfs.rules.
var basicNodes = []string{
	"path null unhide", "path zero unhide", "path full unhide", "path random unhide", "path urandom unhide",
	"path tty unhide", "path ptmx unhide", "path pts unhide", "path 'pts/*' unhide",
	"path fd unhide", "path 'fd/*' unhide", "path stdin unhide", "path stdout unhide", "path stderr unhide",
}

// LoadConfig reads a host's configuration. An empty path gives the defaults,
// with which every request is refused.
func LoadConfig(path string) (Config, error) {
	if path == "" {
		return (&file{}).config("")
	}
	src, _, err := readConfig(path)
	if err != nil {
		return Config{}, err
	}
	return parseConfig(path, src)
}

// maxConfig bounds the host's file, in bytes.
const maxConfig = 16 << 20

// readConfig reads the host's file, once, and tells which it was.
func readConfig(path string) (src []byte, id regular.ID, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, id, fmt.Errorf("host configuration: %w", err)
	}
	fi, err := f.Stat()
	if err == nil {
		src, err = regular.Read(f, path, maxConfig)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, id, fmt.Errorf("host configuration: %w", err)
	}
	return src, regular.IDOf(path, fi), nil
}

func parseConfig(path string, src []byte) (Config, error) {
	var f file
	name := strings.TrimSuffix(filepath.Base(path), ".hcl") + ".hcl" // by which the decoder knows the syntax
	if err := hclsimple.Decode(name, src, nil, &f); err != nil {
		return Config{}, fmt.Errorf("host configuration %s: %w", path, policy.Explain(name, src, err))
	}
	// What neither these fields nor the policy's blocks name is a mistake.
	if _, diags := f.Policy.Content(&hcl.BodySchema{Blocks: policy.Blocks}); diags.HasErrors() {
		return Config{}, fmt.Errorf("host configuration %s: %w", path, diags)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return Config{}, err
	}
	return f.config(path)
}

// config turns what is written into values. The error names every mistake.
func (f *file) config(path string) (Config, error) {
	var r reader
	c := Config{Path: path,
		StateDir:    r.absolute("state_dir", cmp.Or(f.StateDir, DefaultStateDir)),
		Socket:      r.absolute("socket", cmp.Or(f.Socket, client.DefaultSocket)),
		SocketGroup: r.group("socket_group", f.Group),
		LogLevel:    cmp.Or(f.LogLevel, "info"), Runc: f.Runc,
		Storage: value(f.Storage), Consul: value(f.Consul), Securelevel: value(f.Jail).Securelevel,
		DefaultRegistry: f.DefaultRegistry, Signers: f.Signers}
	c.Storage.Driver = cmp.Or(c.Storage.Driver, "auto")
	if l := c.Securelevel; l != nil && (*l < -1 || *l > 3) {
		r.fail("jail: securelevel %d is not within -1 to 3", *l)
	}
	if hclog.LevelFromString(c.LogLevel) == hclog.NoLevel {
		r.fail("log_level %q is not one of trace, debug, info, warn, error and off", c.LogLevel)
	}
	if f.Consul != nil && strings.ContainsFunc(f.Consul.Address, unicode.IsSpace) {
		r.fail("consul: address %q is not an address (for example 127.0.0.1:8500)", f.Consul.Address)
	}
	c.Devfs = f.devfs(&r)
	c.Limits = f.limits(&r)
	c.Metrics, c.Tracing, c.Mirror = f.metrics(&r), f.tracing(&r), f.mirror(&r)
	gc := value(f.GC)
	c.GC = GC{Older: r.duration("gc: older", cmp.Or(gc.Older, "168h"), 0),
		MaxSize: r.size("gc: max_size", gc.MaxSize, 0)}
	nfs := value(f.NFS)
	c.NFS = nfs.nfs(&r, c.StateDir)
	c.Networks, c.DefaultNetwork = f.networks(&r), f.defaultNetwork(&r)
	if c.Storage.Driver == "nfs" && len(nfs.Servers) == 0 {
		r.fail("storage: driver nfs needs nfs { servers }")
	}
	c.Approvers = f.approvers(&r)
	for _, block := range f.Registries {
		c.Registries = append(c.Registries, registry.Host(block))
	}
	r.errs = append(r.errs, c.checkRegistries(), c.checkMirror(), checkNames("signer", c.Signers))
	if err := errors.Join(r.errs...); err != nil {
		return c, fmt.Errorf("host configuration %s: %w", path, err)
	}
	asWritten := c
	c.written = &asWritten
	return c, nil
}

// value is an optional block; one that is left out has nothing in it.
func value[T any](block *T) (v T) {
	if block != nil {
		v = *block
	}
	return v
}

func (f *file) devfs(r *reader) Devfs {
	b := value(f.Devfs)
	first, last := cmp.Or(b.First, 1000), cmp.Or(b.Last, 1999)
	if first < 1 || last > 65535 || first > last {
		r.fail("devfs: first %d to last %d is not a range within 1 to 65535", first, last)
	}
	if b.Open == nil {
		b.Open = basicNodes
	}
	return Devfs{Open: r.rules("open", b.Open), Close: r.rules("close", b.Close),
		Config: devfs.Config{First: uint16(first), Last: uint16(last),
			MaxSets: cmp.Or(b.MaxSets, 200), MaxRules: cmp.Or(b.MaxRules, 100)}}
}

func (f *file) limits(r *reader) Limits {
	b := value(f.Limits)
	l := Limits{
		Image: image.Limits{LayerBytes: r.size("limits: layer_size", b.LayerSize, 0),
			ImageBytes: r.size("limits: image_size", b.ImageSize, 0), Entries: b.Entries},
		LogSize: r.size("limits: log_size", cmp.Or(b.LogSize, "16MiB"), 0),
		Disk:    r.size("limits: disk", b.Disk, storage.MinDisk),
		DiskMax: r.size("limits: disk_max", b.DiskMax, storage.MinDisk),
	}
	if l.DiskMax > 0 && l.Disk > l.DiskMax {
		r.fail("limits: disk %q is more than disk_max %q", b.Disk, b.DiskMax)
	}
	return l
}

// reader turns texts into values and collects what is wrong with them.
type reader struct{ errs []error }

func (r *reader) fail(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

func (r *reader) absolute(name, path string) string {
	if !filepath.IsAbs(path) {
		r.fail("%s %q is not an absolute path", name, path)
	}
	return path
}

// group is the number of a group of this host, which is named or given by its number; nil
// of an empty name.
func (r *reader) group(name, text string) *int {
	if text == "" {
		return nil
	}
	g, err := user.LookupGroup(text)
	if err != nil {
		g, err = user.LookupGroupId(text)
	}
	if err != nil {
		r.fail("%s: no such group on this host: %q", name, text)
		return nil
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		r.fail("%s: group %q: %w", name, text, err)
	}
	return &n
}

// size reads "8GiB" as bytes; empty is 0, which means the default of whoever is asked.
func (r *reader) size(name, text string, least int64) int64 {
	if text == "" {
		return 0
	}
	n, err := units.RAMInBytes(text)
	switch {
	case err != nil:
		r.fail("%s: %q is not a valid size (for example 8GiB)", name, text)
	case n < 0: // units wraps around
		r.fail("%s: %q is too large", name, text)
	case n < least:
		r.fail("%s: %q is too small: the minimum is %s", name, text, units.BytesSize(float64(least)))
	}
	return n
}

func (r *reader) duration(name, text string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.fail("%s: %q is not a valid duration (for example 90s or 168h)", name, text)
	case d < least:
		r.fail("%s: %q is too short: the minimum is %s", name, text, least)
	}
	return d
}

func (r *reader) rules(name string, texts []string) (out []devfs.Rule) {
	for i, text := range texts {
		rule, err := devfs.ParseRule(text)
		if err != nil {
			r.fail("devfs: %s[%d]: %w", name, i, err)
		}
		out = append(out, rule)
	}
	return out
}
