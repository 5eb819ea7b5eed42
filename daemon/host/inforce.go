package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// InForce is what one reading of the host's file says: the policy, and the
// registries and signers beside it, are of one version.
type InForce struct {
	Policy     *policy.Policy
	Registries *registry.Client
	Signers    Signers
	Approvers  []Approver
	File       Config // that was read
	fallback   string // the registry of names without one
	// Doubt is what of the file is probably a mistake, nil for nothing: it is told, and
	// kept from nobody, as the signer or the file may come later.
	Doubt error
}

func newInForce(c Config, name string, src []byte) (*InForce, error) {
	if err := c.checkStorage(); err != nil {
		return nil, err
	}
	p, err := parsePolicy(name, src)
	if err != nil {
		return nil, err
	}
	p.OnHost(chain)
	now := &InForce{Policy: p, File: c, fallback: c.DefaultRegistry,
		Doubt: errors.Join(p.CheckSigners(signerNames(c.Signers)), p.CheckNetworks(c.networkNames()),
			checkCredentials(c.Registries))}
	return now, now.readFiles(c)
}

// readFiles reads the files that a configuration names: certificates and keys.
func (n *InForce) readFiles(c Config) (err error) {
	var err2, err3 error
	n.Registries, err = registry.NewClient(registry.Config{UserAgent: "freejail", Hosts: c.Registries})
	n.Signers, err2 = readSigners(c.Signers)
	n.Approvers, err3 = readApprovers(c.Approvers)
	return errors.Join(err, err2, err3)
}

// checkCredentials finds files with credentials that are not there. They are read
// when they are needed: what is in them may change.
func checkCredentials(list []registry.Host) error {
	var errs []error
	for _, h := range list {
		for setting, file := range map[string]string{"auth_file": h.AuthFile, "password_file": h.PasswordFile} {
			if file == "" {
				continue
			}
			if _, err := os.Stat(file); err != nil {
				errs = append(errs, fmt.Errorf("registry %q: %s: %w", h.Name, setting, err))
			}
		}
	}
	return errors.Join(errs...)
}

// checkStorage finds a driver that this system does not have; another host's may.
func (c *Config) checkStorage() error {
	kind, _, _ := strings.Cut(c.Storage.Driver, ":") // of nfs a server may follow
	if kind != "" && kind != "auto" && !slices.Contains(storage.Kinds(), kind) {
		return fmt.Errorf("host configuration %s: storage: driver %q is not supported on this system "+
			"(supported: auto, %s)", c.Path, kind, strings.Join(storage.Kinds(), ", "))
	}
	return nil
}

// checkRegistries finds mistakes without reading other files, which another
// host's configuration may name.
func (c *Config) checkRegistries() error {
	if c.DefaultRegistry != "" {
		if _, err := registry.ParseReference(c.DefaultRegistry + "/x"); err != nil {
			return fmt.Errorf("default_registry %q: %w", c.DefaultRegistry, err)
		}
	}
	bare := slices.Clone(c.Registries)
	for i := range bare {
		bare[i].CAFile = ""
	}
	_, err := registry.NewClient(registry.Config{Hosts: bare})
	return err
}

// Reference is where a name can be pulled from; ok is false for one that names
// no registry, on a host without a default.
func (n *InForce) Reference(name string) (ref registry.Reference, ok bool, err error) {
	switch {
	case registry.IsReference(name):
	case n.fallback == "" || strings.HasPrefix(name, "sha256:"):
		return ref, false, nil
	default:
		name = n.fallback + "/" + name
	}
	if ref, err = registry.ParseReference(name); err != nil {
		return ref, false, client.Invalid("%v", err)
	}
	return n.Registries.Canonical(ref), true, nil
}

// LoadPolicy reads the policy of a host's file, and the rest of the file with
// it: a mistake anywhere is an error. An empty path is a host without a policy.
func LoadPolicy(path string) (*policy.Policy, error) {
	if path == "" {
		return parsePolicy("defaults", nil)
	}
	src, _, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	if _, err := parseConfig(path, src); err != nil {
		return nil, err
	}
	return parsePolicy(path, src)
}

// PolicyDoubt is what of a policy is probably a mistake by the networks of its file, if that has any.
func PolicyDoubt(path string, p *policy.Policy) error {
	c, err := LoadConfig(path)
	if err != nil || len(c.Networks) == 0 {
		return err
	}
	return p.CheckNetworks(c.networkNames())
}

func parsePolicy(name string, src []byte) (*policy.Policy, error) {
	p, err := policy.Parse(name, src, policy.DevicesBy(devfs.ParseRule, devfs.NewIndex))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// Check reads a host's file as the daemon does when it starts: the
// configuration, the policy, and the files that it names. It returns what is probably a mistake beside.
func Check(path string) (doubt, err error) {
	if path == "" {
		return nil, nil
	}
	now, err := (&Follower{path: path}).parse()
	if err != nil {
		return nil, err
	}
	c, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	doubt = now.Doubt
	if _, _, err := c.Mirror.Secrets(); err != nil { // which the daemon itself does not read
		doubt = errors.Join(doubt, fmt.Errorf("freejail serve --mirror would not start: %w", err))
	}
	return doubt, c.Metrics.CheckFiles()
}

// Follower keeps what is in force while the host's file changes. A faulty file
// leaves the old in force, and its error beside it.
type Follower struct {
	path string
	log  hclog.Logger

	mu       sync.Mutex
	now      *InForce
	file     regular.ID // that was read; none where it could not be
	err      error
	failures uint64
}

// NewFollower reads the file of a configuration. An error is final: there is no
// older policy to keep.
func NewFollower(c Config, log hclog.Logger) (f *Follower, err error) {
	f = &Follower{path: c.Path, log: log}
	if c.Path == "" {
		f.now, err = newInForce(c, "defaults", nil)
		return f, err
	}
	return f, f.Reload()
}

// Last is what the last reading found, without another one. Where its error is
// not nil the version before it is in force, if there is one.
func (f *Follower) Last() (*InForce, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, f.err
}

// Failures counts the readings of the file that failed.
func (f *Follower) Failures() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures
}

// Reload reads the file again, changed or not.
func (f *Follower) Reload() error {
	if _, _, err := f.read(true); err != nil {
		return client.Invalid("%v", err)
	}
	return nil
}

// Follow reads the file if it has changed. News is an error that was not told
// before.
func (f *Follower) Follow() (now *InForce, news error) {
	now, isNews, err := f.read(false)
	if !isNews {
		return now, nil
	}
	return now, err
}

// read reads the file if it has changed, or anyway.
func (f *Follower) read(anyway bool) (now *InForce, news bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path == "" {
		return f.now, false, nil
	}
	if fi, err := os.Stat(f.path); err == nil && regular.IDOf(f.path, fi) == f.file && !anyway {
		return f.now, false, f.err
	}
	now, err = f.parse()
	if err == nil {
		now.Registries.OnWarning(func(text string) { f.log.Warn("registry", "warning", text) })
		f.now, f.err = now, nil
		return now, false, nil
	}
	if f.now != nil {
		err = fmt.Errorf("the previous policy stays in force: %w", err)
	}
	news = f.err == nil || f.err.Error() != err.Error()
	f.err = err
	if news || anyway {
		f.failures++
		f.log.Error("policy", "error", err)
	}
	return f.now, news, err
}

func (f *Follower) parse() (*InForce, error) {
	src, id, err := readConfig(f.path)
	f.file = id
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(f.path, src)
	if err != nil {
		return nil, err
	}
	return newInForce(c, f.path, src)
}
