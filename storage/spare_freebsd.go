package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// To make an image's links takes time at the start of a task, and to remove one
// UFS waits for the disk (ffs_truncate of sys/ufs/ffs/ffs_inode.c). So links that
// a task has left as they were are moved, when it is removed, to an upper
// directory for the next task of the same image. Such spare directories are
// those of one boot of the host: what a crash leaves of them may be torn.

// maxSpare are kept of a chain.
const maxSpare = 4

// takeSpare makes a spare directory an upper directory, if there is one.
func (u union) takeSpare(chain, upper string) bool {
	dir, err := u.spares(chain)
	if err != nil {
		return false
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range names {
		if os.Rename(filepath.Join(dir, e.Name()), upper) == nil {
			return true
		}
	}
	return false
}

// Remove keeps what the next task of the same image can begin with.
func (u union) Remove(ctx context.Context, task string) error {
	return u.release(task, func() {
		_ = u.keepSpare(ctx, task) // without one the next root is made as the first was
	})
}

// keepSpare makes a spare directory of the upper directory of a task that has
// ended. Nothing is mounted there any more, and nobody has anything of it open.
func (u union) keepSpare(ctx context.Context, task string) error {
	to, err := os.Readlink(u.path("roots", task, "chain"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	chain := filepath.Base(to)
	if _, err := os.Stat(u.path("links", chain)); errors.Is(err, fs.ErrNotExist) { // no root of it had copies
		return nil
	}
	old, err := openDir(u.path("roots", task, "upper"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(u.makeSpare(ctx, chain, task, old), old.Close())
}

func (u union) makeSpare(ctx context.Context, chain, task string, old *os.File) error {
	spares, err := u.spares(chain)
	if err != nil {
		return err
	}
	top, err := u.linksOf(ctx, chain)
	if err != nil || len(top.Links)+len(top.Folders) == 0 {
		return err
	}
	if err := os.MkdirAll(spares, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(spares)
	if err != nil || len(there) >= maxSpare {
		return err
	}
	tmp, err := os.MkdirTemp(u.path("tmp"), "spare-")
	if err != nil {
		return err
	}
	in, err := openDir(tmp)
	if err == nil {
		err = errors.Join(top.make(ctx, old, in, task), in.Close())
	}
	if err == nil {
		err = os.Rename(filepath.Join(tmp, task), filepath.Join(spares, task))
	}
	return errors.Join(err, u.discard(tmp))
}

// dropOldSpares removes those of earlier boots.
func (d *dirs) dropOldSpares() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	names, err := os.ReadDir(d.path("spare"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range names {
		if e.Name() != boot {
			go d.discard(d.path("spare", e.Name())) // noted
		}
	}
	return nil
}
