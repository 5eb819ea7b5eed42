// Package storage makes the roots of tasks from unpacked images.
//
// A chain is an image's layers unpacked into one tree, named by its OCI
// ChainID. A root is what one task sees: the chain, and on it whatever the task
// writes, which goes with the task.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/freejail/freejail/internal/mount"
)

// Driver makes roots. Create, Remove and EnsureChain may be called from several
// goroutines.
type Driver interface {
	Name() string
	// EnsureChain has unpack fill a directory, unless the chain is there. A
	// chain appears whole or not at all; others that want it wait.
	EnsureChain(ctx context.Context, chain string, unpack func(dir string) error) error
	// Create makes and mounts a task's root. On error nothing is left.
	Create(ctx context.Context, chain, task string, o Options) (root string, err error)
	// Remove unmounts and deletes a task's root, wholly or half there. No root
	// is no error.
	Remove(ctx context.Context, task string) error
	// Tasks lists the tasks of which anything is left.
	Tasks(ctx context.Context) ([]string, error)
	Chains(ctx context.Context) ([]string, error)
	// RemoveChain deletes a chain that no root stands on.
	RemoveChain(ctx context.Context, chain string) error
}

// Options of one root.
type Options struct {
	// Writable are the paths that the image wants to write to; drivers whose
	// whole root is writable need not look at them.
	Writable []string
	// Dirs and Files are what will be mounted over: a driver whose root cannot
	// be written to makes them.
	Dirs, Files []string
}

// Config of a host.
type Config struct {
	ZFSDataset string // parent of freejail's datasets, for zfs
}

// Open returns the driver of a kind, or with "auto" the best that the host has.
func Open(kind, dir string, cfg Config) (Driver, error) {
	if kind == "auto" {
		kind = detect(dir, cfg)
	}
	open, ok := drivers[kind]
	if !ok {
		return nil, fmt.Errorf("storage driver %q is not there on this system; there are: %v", kind, Kinds())
	}
	return open(dir, cfg)
}

// Kinds are the drivers of this system, whether this host can have them or not.
func Kinds() []string { return slices.Sorted(maps.Keys(drivers)) }

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func checkName(kind, s string) error {
	if !validName.MatchString(s) {
		return fmt.Errorf("storage: %s %q is not a name of letters, digits and ._-", kind, s)
	}
	return nil
}

// dirs is what the drivers that keep chains and roots as directories share.
type dirs struct {
	base  string
	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

// opened are the dirs of this process by their base: drivers that share one
// share chains, and so locks.
var opened = struct {
	sync.Mutex
	m map[string]*dirs
}{m: map[string]*dirs{}}

func openDirs(base string) (*dirs, error) {
	opened.Lock()
	defer opened.Unlock()
	if d, ok := opened.m[base]; ok {
		return d, nil
	}
	d, err := makeDirs(base)
	if err == nil {
		opened.m[base] = d
	}
	return d, err
}

func makeDirs(base string) (*dirs, error) {
	d := &dirs{base: base, locks: map[string]*sync.Mutex{}}
	for _, p := range []string{d.path("chains"), d.path("tmp"), d.path("roots")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	// What was being unpacked when the last daemon ended is of no use.
	left, err := os.ReadDir(d.path("tmp"))
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	for _, e := range left {
		if err := removeTree(d.path("tmp", e.Name())); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	return d, nil
}

func (d *dirs) path(elem ...string) string {
	return filepath.Join(append([]string{d.base}, elem...)...)
}

// lock serialises the work on one chain.
func (d *dirs) lock(chain string) func() {
	d.mu.Lock()
	m, ok := d.locks[chain]
	if !ok {
		m = &sync.Mutex{}
		d.locks[chain] = m
	}
	d.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// EnsureChain unpacks beside the chains and renames.
func (d *dirs) EnsureChain(ctx context.Context, chain string, unpack func(string) error) error {
	if err := checkName("chain", chain); err != nil {
		return err
	}
	defer d.lock(chain)()
	final := d.path("chains", chain)
	if _, err := os.Stat(final); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.MkdirTemp(d.path("tmp"), "chain-")
	if err != nil {
		return err
	}
	err = os.Chmod(tmp, 0o755)
	if err == nil {
		err = unpack(tmp)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err != nil {
		return errors.Join(err, removeTree(tmp))
	}
	return nil
}

// Tasks lists the roots.
func (d *dirs) Tasks(context.Context) ([]string, error) { return d.names("roots") }

// Chains lists the chains.
func (d *dirs) Chains(context.Context) ([]string, error) { return d.names("chains") }

func (d *dirs) names(sub string) ([]string, error) {
	entries, err := os.ReadDir(d.path(sub))
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// useChain notes which chain a root stands on, for RemoveChain.
func (d *dirs) useChain(chain, task string) error {
	if err := errors.Join(checkName("chain", chain), checkName("task", task)); err != nil {
		return err
	}
	if _, err := os.Stat(d.path("chains", chain)); err != nil {
		return fmt.Errorf("storage: chain: %w", err)
	}
	if err := os.Mkdir(d.path("roots", task), 0o700); err != nil {
		return fmt.Errorf("storage: root: %w", err)
	}
	return os.Symlink(filepath.Join("..", "..", "chains", chain), d.path("roots", task, "chain"))
}

// Remove unmounts all below a root's directory and deletes it.
func (d *dirs) Remove(_ context.Context, task string) error {
	if err := checkName("task", task); err != nil {
		return err
	}
	dir := d.path("roots", task)
	if err := errors.Join(d.removePoint(task), mount.UnmountUnder(dir)); err != nil {
		return err
	}
	return removeTree(dir)
}

// RemoveChain refuses while a root stands on the chain.
func (d *dirs) RemoveChain(ctx context.Context, chain string) error {
	if err := checkName("chain", chain); err != nil {
		return err
	}
	defer d.lock(chain)()
	tasks, err := d.Tasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if to, err := os.Readlink(d.path("roots", t, "chain")); err == nil && filepath.Base(to) == chain {
			return fmt.Errorf("storage: chain %s is in use by task %s", chain, t)
		}
	}
	tmp := d.path("tmp", "gone-"+chain)
	if err := os.Rename(d.path("chains", chain), tmp); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return removeTree(tmp)
}
