package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/policy"
)

// Config is the host's freejail.hcl without its policy blocks, which package
// policy reads from the same file.
type Config struct {
	StateDir string         `hcl:"state_dir,optional"`
	Socket   string         `hcl:"socket,optional"`
	LogLevel string         `hcl:"log_level,optional"`
	Runc     string         `hcl:"runc,optional"` // development hosts only
	Storage  *StorageConfig `hcl:"storage,block"`
	Devfs    *DevfsConfig   `hcl:"devfs,block"`
	Jail     *JailConfig    `hcl:"jail,block"`
	Consul   *ConsulConfig  `hcl:"consul,block"`
	Limits   *LimitsConfig  `hcl:"limits,block"`
	GC       *GCConfig      `hcl:"gc,block"`
	NFS      *NFSConfig     `hcl:"nfs,block"`
	// DefaultRegistry is where images without a registry in their name are
	// looked for, if none of the store has the name: HOST or HOST/PREFIX.
	DefaultRegistry string           `hcl:"default_registry,optional"`
	Registries      []RegistryConfig `hcl:"registry,block"`
	Signers         []SignerConfig   `hcl:"signer,block"`
	Policy          hcl.Body         `hcl:",remain"`

	// Path is the file that this was read from; empty for the defaults.
	Path string
}

// StorageConfig chooses how roots are made.
type StorageConfig struct {
	Driver     string `hcl:"driver,optional"` // auto, zfs, union, readonly, nfs, overlay
	ZFSDataset string `hcl:"zfs_dataset,optional"`
}

// DevfsConfig bounds the rulesets that freejail may make and gives the host's
// own rules, which enclose what images ask for.
type DevfsConfig struct {
	First    int      `hcl:"first,optional"`
	Last     int      `hcl:"last,optional"`
	MaxSets  int      `hcl:"max_sets,optional"`
	MaxRules int      `hcl:"max_rules,optional"`
	Open     []string `hcl:"open,optional"`
	Close    []string `hcl:"close,optional"`
}

// JailConfig is for every jail of the host.
type JailConfig struct {
	// Securelevel of a jail whose image and job ask for none: -1 to 3.
	Securelevel *int `hcl:"securelevel,optional"`
}

// ConsulConfig says where services are registered; without an address none
// are.
type ConsulConfig struct {
	Address   string `hcl:"address,optional"`
	TokenFile string `hcl:"token_file,optional"`
	// Advertise is the address of services whose port names none.
	Advertise string `hcl:"advertise,optional"`
}

// LimitsConfig bounds what an image may unpack to, a log may grow to, and a task
// may write to its root.
// Sizes are written like "8GiB".
type LimitsConfig struct {
	LayerSize string `hcl:"layer_size,optional"`
	ImageSize string `hcl:"image_size,optional"`
	Entries   int64  `hcl:"entries,optional"`
	LogSize   string `hcl:"log_size,optional"`
	Disk      string `hcl:"disk,optional"`     // of a task that asks for none; default disk_max
	DiskMax   string `hcl:"disk_max,optional"` // that a task may ask for; default no limit
}

// GCConfig says which images that were given by a path, as jobs' artifacts are,
// `freejail gc` forgets. It never forgets those that someone has named.
type GCConfig struct {
	Older   string `hcl:"older,optional"`    // unused for so long; "0s" forgets none by age
	MaxSize string `hcl:"max_size,optional"` // of all images, stored and unpacked; empty is no limit
}

// RegistryConfig is how one registry is reached; see registry.Host.
type RegistryConfig struct {
	Host         string   `hcl:"host,label"`
	Mirrors      []string `hcl:"mirrors,optional"` // HOST[:PORT][/PREFIX], asked first
	PlainHTTP    bool     `hcl:"plain_http,optional"`
	CAFile       string   `hcl:"ca_file,optional"`
	AuthFile     string   `hcl:"auth_file,optional"`
	Username     string   `hcl:"username,optional"`
	PasswordFile string   `hcl:"password_file,optional"`
}

// SignerConfig is a key whose signatures count, by the name that the policy has
// for it.
type SignerConfig struct {
	Name    string `hcl:"name,label"`
	KeyFile string `hcl:"key_file"`
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
		c := Config{}
		c.setDefaults()
		return c, c.validate()
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
func readConfig(path string) (src []byte, id fileID, err error) {
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
	return src, idOf(path, fi), nil
}

func parseConfig(path string, src []byte) (c Config, err error) {
	if err := decodeConfig(path, src, &c); err != nil {
		return c, err
	}
	if c.Path, err = filepath.Abs(path); err != nil {
		return c, err
	}
	c.setDefaults()
	return c, c.validate()
}

func decodeConfig(path string, src []byte, c *Config) error {
	name := strings.TrimSuffix(filepath.Base(path), ".hcl") + ".hcl" // by which the decoder knows the syntax
	if err := hclsimple.Decode(name, src, nil, c); err != nil {
		return fmt.Errorf("host configuration %s: %w", path, err)
	}
	// What neither these fields nor the policy's blocks name is a mistake.
	rest := &hcl.BodySchema{Blocks: policy.Blocks}
	if _, diags := c.Policy.Content(rest); diags.HasErrors() {
		return fmt.Errorf("host configuration %s: %w", path, diags)
	}
	return nil
}

func (c *Config) setDefaults() {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.StateDir, DefaultStateDir)
	def(&c.Socket, client.DefaultSocket)
	def(&c.LogLevel, "info")
	if c.Storage == nil {
		c.Storage = &StorageConfig{}
	}
	def(&c.Storage.Driver, "auto")
	if c.Devfs == nil {
		c.Devfs = &DevfsConfig{}
	}
	num(&c.Devfs.First, 1000)
	num(&c.Devfs.Last, 1999)
	num(&c.Devfs.MaxSets, 200)
	num(&c.Devfs.MaxRules, 100)
	if c.Devfs.Open == nil {
		c.Devfs.Open = basicNodes
	}
	if c.Jail == nil {
		c.Jail = &JailConfig{}
	}
	if c.Consul == nil {
		c.Consul = &ConsulConfig{}
	}
	if c.Limits == nil {
		c.Limits = &LimitsConfig{}
	}
	def(&c.Limits.LogSize, "16MiB")
	if c.GC == nil {
		c.GC = &GCConfig{}
	}
	def(&c.GC.Older, "168h")
	c.nfsDefaults()
}

func (c *Config) validate() error {
	var errs []error
	if !filepath.IsAbs(c.StateDir) {
		errs = append(errs, fmt.Errorf("state_dir %q is not an absolute path", c.StateDir))
	}
	if !filepath.IsAbs(c.Socket) {
		errs = append(errs, fmt.Errorf("socket %q is not an absolute path", c.Socket))
	}
	if d := c.Devfs; d.First < 1 || d.Last > 65535 || d.First > d.Last {
		errs = append(errs, fmt.Errorf("devfs: first %d to last %d is not a range within 1 to 65535", d.First, d.Last))
	}
	if l := c.Jail.Securelevel; l != nil && (*l < -1 || *l > 3) {
		errs = append(errs, fmt.Errorf("jail: securelevel %d is not within -1 to 3", *l))
	}
	for name, texts := range map[string][]string{"open": c.Devfs.Open, "close": c.Devfs.Close} {
		for i, text := range texts {
			if _, err := devfs.ParseRule(text); err != nil {
				errs = append(errs, fmt.Errorf("devfs: %s[%d]: %w", name, i, err))
			}
		}
	}
	for name, s := range map[string]string{"layer_size": c.Limits.LayerSize, "image_size": c.Limits.ImageSize, "log_size": c.Limits.LogSize} {
		if _, err := size(s); err != nil {
			errs = append(errs, fmt.Errorf("limits: %s %q is not a size such as \"8GiB\"", name, s))
		}
	}
	errs = append(errs, c.Limits.checkDisk())
	if age, err := time.ParseDuration(c.GC.Older); err != nil || age < 0 {
		errs = append(errs, fmt.Errorf("gc: older %q is not a time such as \"168h\"", c.GC.Older))
	}
	errs = append(errs, c.checkRemotes())
	if n, err := size(c.GC.MaxSize); err != nil || n < 0 {
		errs = append(errs, fmt.Errorf("gc: max_size %q is not a size such as \"20GiB\"", c.GC.MaxSize))
	}
	errs = append(errs, c.NFS.validate())
	if c.Storage.Driver == nfsStorage && len(c.NFS.Servers) == 0 {
		errs = append(errs, errors.New("storage: driver nfs needs nfs { servers }"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("host configuration %s: %w", c.Path, err)
	}
	return nil
}

// size reads "8GiB"; empty is 0, which means the default of whoever is asked.
func size(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	return units.RAMInBytes(s)
}
