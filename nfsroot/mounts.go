package nfsroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/internal/regular"
)

// Config of a host's mounts.
type Config struct {
	Dir     string // of the host's state; the mounts lie below it
	Options Options
	// Keep is how long a mount that nobody has stays for the next who wants it.
	Keep time.Duration
	// Every is how often each mount is looked at.
	Every time.Duration
	// Told is called when a mount becomes unhealthy or healthy again, with those
	// who have it.
	Told func(holders []string, h Health)
	// Damaged is called with what is no mount's directory, or tells not who has
	// the mount: it is left as it is. nil tells nobody.
	Damaged func(path string, err error)
}

// Mounts are the NFS mounts of a host: one for each image, shared by all tasks
// that have their root from it. Who has which mount is noted in files, so that
// a later daemon knows. No call waits for a server longer than its context, or
// the options' timeout.
type Mounts struct {
	cfg  Config
	do   mounter
	mu   sync.Mutex
	list []*shared
	next int
}

// mounter is what the kernel does for us, and what a test does instead.
type mounter interface {
	mount(ctx context.Context, src *Source, dir, target string, o Options) error
	probe(target string) error
	during(target string, do func() error) error
	abandon(target string) error
	unmount(dir string) error
	mounted(target string) (bool, error)
}

// shared is one mount.
type shared struct {
	noted
	dir     string          // of its own
	holders map[string]bool // false: on its way out
	ready   chan struct{}   // closed when it is mounted, or has failed
	err     error           // of mounting; valid when ready
	idle    time.Time       // since when nobody has it
	health  Health
	down    bool // it is being taken down, or given up
}

// noted is what is kept of a mount in its directory.
type noted struct {
	Server  string    `json:"server"`
	Digest  string    `json:"digest"`
	Mounted time.Time `json:"mounted"`
}

const (
	notedFile  = "mount.json"
	holdersDir = "holders"
	pointDir   = "mount"
)

func (s *shared) target() string { return filepath.Join(s.dir, pointDir) }

// Open finds the mounts that an earlier daemon has left.
func Open(cfg Config) (*Mounts, error) { return open(cfg, newKernel()) }

func open(cfg Config, do mounter) (*Mounts, error) {
	m := &Mounts{cfg: cfg, do: do}
	entries, err := os.ReadDir(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nfs: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(cfg.Dir, e.Name())
		if s, err := m.adopt(dir); err == nil {
			m.list = append(m.list, s)
		} else if cfg.Damaged != nil {
			cfg.Damaged(dir, err)
		}
	}
	return m, nil
}

// adopt reads what is noted of a mount. One that was being made or taken down
// is not for new tasks.
func (m *Mounts) adopt(dir string) (*shared, error) {
	s := &shared{dir: dir, holders: map[string]bool{}, ready: make(chan struct{})}
	close(s.ready)
	err := s.noted.read(filepath.Join(dir, notedFile))
	there := false
	if err == nil {
		there, err = m.do.mounted(s.target())
	}
	s.down = err != nil || !there
	holders, err := os.ReadDir(filepath.Join(dir, holdersDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, h := range holders {
		s.holders[h.Name()] = true
	}
	s.idle = time.Now()
	if !s.down {
		go m.watch(s)
	}
	return s, nil
}

// maxNoted is far more than what is noted of a mount.
const maxNoted = 1 << 20

func (n *noted) read(path string) error {
	f, _, err := regular.Open(path)
	if err != nil {
		return err
	}
	b, err := regular.Read(f, path, maxNoted)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return json.Unmarshal(b, n)
}

// Reconcile lets go of the mounts of all but the holders that are alive, and
// takes down what nobody has.
func (m *Mounts) Reconcile(alive []string) error {
	var errs []error
	for _, s := range m.snapshot() {
		m.mu.Lock()
		for h := range s.holders {
			if !slices.Contains(alive, h) {
				errs = append(errs, m.drop(s, h))
			}
		}
		none := len(s.holders) == 0
		m.mu.Unlock()
		if none {
			errs = append(errs, m.takeDown(s))
		}
	}
	return errors.Join(errs...)
}

func (m *Mounts) snapshot() []*shared {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

// drop forgets a holder. The caller holds the lock.
func (m *Mounts) drop(s *shared, holder string) error {
	err := os.Remove(filepath.Join(s.dir, holdersDir, holder))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		delete(s.holders, holder)
		s.idle = time.Now()
	}
	return err
}

// Acquire has a source mounted for a holder and returns the directory of the
// image's root. On error the holder has nothing.
func (m *Mounts) Acquire(ctx context.Context, src *Source, holder string) (root string, err error) {
	name, err := dirName(src.Digest)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	s := m.usable(src)
	fresh := s == nil
	if fresh {
		s, err = m.create(src, name)
	}
	if err == nil {
		err = note(s, holder)
	}
	m.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("nfs: %w", err)
	}
	if fresh {
		go m.mountIt(s, src, name)
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Options.Timeout)
	defer cancel()
	select {
	case <-s.ready:
		if s.err == nil {
			return filepath.Join(s.target(), rootDir), nil
		}
		err = s.err
	case <-ctx.Done():
		err = fmt.Errorf("%w within %s", ErrAway, m.cfg.Options.Timeout)
	}
	return "", errors.Join(fmt.Errorf("mount %s: %w", src.Server, err), m.Release(holder))
}

// usable finds a mount of the same image from the same server that does not
// fail. The caller holds the lock.
func (m *Mounts) usable(src *Source) *shared {
	for _, s := range m.list {
		if s.Server == src.Server.String() && s.Digest == src.Digest && !s.down && s.health.OK() {
			return s
		}
	}
	return nil
}

// create makes the directory of a new mount. The caller holds the lock.
func (m *Mounts) create(src *Source, name string) (*shared, error) {
	s := &shared{holders: map[string]bool{}, ready: make(chan struct{}),
		noted: noted{Server: src.Server.String(), Digest: src.Digest, Mounted: time.Now()}}
	err := os.MkdirAll(m.cfg.Dir, 0o700)
	for err == nil {
		m.next++
		s.dir = filepath.Join(m.cfg.Dir, fmt.Sprintf("%s.%d", strings.TrimPrefix(name, "sha256-")[:16], m.next))
		if err = os.Mkdir(s.dir, 0o700); err == nil {
			break
		}
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	var b []byte
	if err == nil {
		b, err = json.Marshal(s.noted)
	}
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(s.dir, notedFile), b, 0o600),
			os.Mkdir(filepath.Join(s.dir, holdersDir), 0o700), os.Mkdir(s.target(), 0o700))
	}
	if err == nil {
		m.list = append(m.list, s)
	}
	return s, err
}

func note(s *shared, holder string) error {
	if err := os.WriteFile(filepath.Join(s.dir, holdersDir, holder), nil, 0o600); err != nil {
		return err
	}
	s.holders[holder] = true
	return nil
}

// mountIt lasts as long as the kernel takes. Whoever waited may have gone.
func (m *Mounts) mountIt(s *shared, src *Source, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.Options.Timeout)
	defer cancel()
	err := m.do.mount(ctx, src, name, s.target(), m.cfg.Options)
	m.mu.Lock()
	s.err = err
	s.down = s.down || err != nil
	unwanted := len(s.holders) == 0
	if unwanted {
		s.down = true
	}
	close(s.ready)
	m.mu.Unlock()
	if unwanted {
		_ = m.takeDown(s) // Tick repeats what fails
		return
	}
	if err == nil {
		m.watch(s)
	}
}
