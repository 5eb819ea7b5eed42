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
	"maps"
	"regexp"
	"slices"
)

// Driver makes roots. Create, Remove and EnsureChain may be called from several
// goroutines.
type Driver interface {
	Name() string
	// EnsureChain has apply fill a directory, unless the chain is there. It is
	// the last of chains, which are those of an image's first layer, its first
	// two layers and so on: a driver may keep each and share it. A chain appears
	// whole or not at all, also after a crash of the host; others that want it
	// wait, as long as their contexts last. It stays at least until release is
	// called.
	EnsureChain(ctx context.Context, chains []string, apply Apply) (release func(), err error)
	// Create makes and mounts a task's root. On error nothing is left. Its own files are
	// there, or where MountsOwn, regular files for them to be mounted over.
	Create(ctx context.Context, chain, task string, o Options) (root string, err error)
	// MountsOwn tells that Options.Own are the caller's to mount.
	MountsOwn() bool
	// Remove unmounts and deletes a task's root, wholly or half there. No root
	// is no error.
	Remove(ctx context.Context, task string) error
	// Tasks lists the tasks of which anything is left.
	Tasks(ctx context.Context) ([]string, error)
	Chains(ctx context.Context) ([]string, error)
	// ChainSize tells how many bytes of the disk a chain takes.
	ChainSize(ctx context.Context, chain string) (int64, error)
	// RemoveChain deletes a chain. One that a root stands on, or that is held
	// since EnsureChain, is ErrInUse; none is no error.
	RemoveChain(ctx context.Context, chain string) error
	// Leftovers tells what of removed chains and the like is still on the disk, each
	// with the reason. It has no other name, and is tried again when the driver is
	// opened.
	Leftovers() []string
}

// Rester is a driver that keeps something ready for later tasks, and works on behind a return.
type Rester interface {
	// Rest ends both, until the next task. It is for the end of the daemon, or before another version takes over.
	Rest(ctx context.Context) error
}

// Apply puts the layers from the index first to before the index end into a
// directory, which has those before.
type Apply func(dir string, first, end int) error

// ErrInUse means that a chain cannot be removed now.
var ErrInUse = errors.New("the chain is in use")

// Options of one root.
type Options struct {
	// Writable are the paths that the image wants to write to; drivers whose
	// whole root is writable need not look at them.
	Writable []string
	// Volumes are writable too, and are made where the image lacks them.
	Volumes []string
	// Own are the files that the task has instead of the image's.
	Own []File
	// Dirs and Files are what will be mounted over: a driver whose root cannot
	// be written to makes them.
	Dirs, Files []string
	// Lower is the tree that an nfs root shows, mounted elsewhere, instead of a
	// chain; there Dirs and Files are not made.
	Lower string
	// NoSetuid keeps set-uid programs of an nfs root from working.
	NoSetuid bool
	// Links has a union copy the image's links, so that their owners, modes and
	// times can be changed. Programs that list a directory without FreeBSD's libc
	// see a copied name twice.
	Links bool
	// DiskBytes are what the task may write to the root, of MinDisk or more; 0 is no
	// limit. Drivers with a Meter leave it to who measures.
	DiskBytes int64
}

// Config of a host.
type Config struct {
	ZFSDataset string // parent of freejail's datasets, for zfs

	// Of nfs: where what is written goes, UpperMemory or UpperLocal, how many
	// bytes UpperMemory holds, and whether writable paths are copied instead of
	// united.
	Upper     string
	UpperSize int64
	Copy      bool
}

// Open returns the driver of a kind, or with "auto" the best that the host has.
func Open(kind, dir string, cfg Config) (Driver, error) {
	if kind == "auto" {
		kind = detect(dir, cfg)
	}
	open, ok := drivers[kind]
	if !ok {
		return nil, fmt.Errorf("storage driver %q is not supported on this system (supported: %v)", kind, Kinds())
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
