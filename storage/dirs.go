package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
)

// dirs is what the drivers that keep chains and roots as directories share.
type dirs struct {
	base string
	holders
	leftovers
	fresh fresh
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
	d := &dirs{base: base}
	for _, p := range []string{d.path("chains"), d.path("fresh"), d.path("tmp"), d.path("roots")} {
		if err := durable.MkdirAll(p, 0o700); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
	}
	// What was being unpacked when the last daemon ended is of no use.
	left, err := os.ReadDir(d.path("tmp"))
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	for _, e := range left {
		_ = d.discard(d.path("tmp", e.Name())) // noted
	}
	if err := d.dropTorn(); err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	d.restPoints() // of a daemon that was killed
	return d, nil
}

func (d *dirs) path(elem ...string) string {
	return filepath.Join(append([]string{d.base}, elem...)...)
}

// EnsureChain unpacks beside the chains and renames.
func (d *dirs) EnsureChain(ctx context.Context, chains []string, apply Apply) (release func(), err error) {
	chain, err := lastChain(chains)
	if err != nil {
		return nil, err
	}
	unlock, err := d.locks.Lock(ctx, chain)
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, err = os.Stat(d.path("chains", chain))
	if errors.Is(err, fs.ErrNotExist) {
		err = d.makeChain(ctx, chain, func(dir string) error { return apply(dir, 0, len(chains)) })
	}
	if err != nil {
		return nil, err
	}
	return d.hold(chain), nil
}

func (d *dirs) makeChain(ctx context.Context, chain string, unpack func(string) error) error {
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
		err = d.noteFresh(chain)
	}
	if err == nil {
		err = os.Rename(tmp, d.path("chains", chain))
	}
	if err != nil {
		return errors.Join(err, d.discard(tmp))
	}
	d.settleLater(chain)
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
	return d.release(task, func() {})
}

// release takes a root away on which nobody runs any more. The mounts of the host are listed only where there are more
// than this process has made for the root: then its mount point, its directory or something in that cannot be removed.
// keep is called when nothing is mounted any more, before the directory is removed.
func (d *dirs) release(task string, keep func()) error {
	if err := checkName("task", task); err != nil {
		return err
	}
	if mount.ReleaseOwn("", d.path("points", task), d.path("roots", task)) && d.removeFiles(task, keep) == nil {
		return nil
	}
	return d.remove(task, mount.ReleaseUnder, keep)
}

func (d *dirs) remove(task string, unmount func(...string) error, keep func()) error {
	if err := checkName("task", task); err != nil {
		return err
	}
	if err := unmount(d.path("points", task), d.path("roots", task)); err != nil {
		return err
	}
	return d.removeFiles(task, keep)
}

// removeFiles removes what an unmounted root has: nothing on which something is mounted, nor what is in that.
func (d *dirs) removeFiles(task string, keep func()) error {
	if err := d.removePoint(task); err != nil {
		return err
	}
	keep()
	return remove.Tree(d.path("roots", task))
}

// ChainSize adds up what the file system has allocated, each file once.
func (d *dirs) ChainSize(ctx context.Context, chain string) (int64, error) {
	if err := checkName("chain", chain); err != nil {
		return 0, err
	}
	return diskUse(ctx, d.path("chains", chain))
}

// RemoveChain renames before it deletes.
func (d *dirs) RemoveChain(ctx context.Context, chain string) error {
	if err := checkName("chain", chain); err != nil {
		return err
	}
	unlock, err := d.locks.Lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	if d.isHeld(chain) {
		return fmt.Errorf("storage: chain %s: %w", chain, ErrInUse)
	}
	tasks, err := d.Tasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if to, err := os.Readlink(d.path("roots", t, "chain")); err == nil && filepath.Base(to) == chain {
			return fmt.Errorf("storage: chain %s: %w by task %s", chain, ErrInUse, t)
		}
	}
	return d.dropChain(chain)
}

// dropChain makes a chain vanish at once, and then its files, as far as they can
// be removed.
func (d *dirs) dropChain(chain string) error {
	tmp, err := d.hideChain(chain)
	if err != nil {
		return err
	}
	_ = d.discard(tmp) // noted
	return nil
}

// hideChain moves a chain to a name that nothing left before it has.
func (d *dirs) hideChain(chain string) (tmp string, err error) {
	if tmp, err = os.MkdirTemp(d.path("tmp"), "gone-"); err != nil {
		return "", err
	}
	err = remove.Move(d.path("chains", chain), filepath.Join(tmp, "chain"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(tmp))
	}
	// Else a crash of the host could bring the name back without the note or the files.
	if err := durable.Sync(d.path("chains")); err != nil {
		return tmp, err
	}
	spares, err := d.spares(chain)
	if err == nil {
		err = os.Rename(spares, filepath.Join(tmp, "spares"))
	}
	for _, err := range []error{err, os.Remove(d.path("links", chain))} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return tmp, err
		}
	}
	return tmp, d.forgetFresh(chain)
}

// spares is where a union keeps directories for the next tasks of a chain.
func (d *dirs) spares(chain string) (string, error) {
	boot, err := bootID()
	return d.path("spare", boot, chain), err
}
