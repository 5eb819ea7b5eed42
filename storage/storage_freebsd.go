package storage

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

var drivers = map[string]func(string, Config) (Driver, error){"nfs": openNFS, "readonly": openReadonly,
	"union": openUnion, "zfs": openZFS}

func detect(_ string, cfg Config) string {
	if cfg.ZFSDataset != "" {
		return "zfs"
	}
	return "union"
}

// union is for hosts without ZFS: the chain by a read-only nullfs, and over it
// by unionfs a directory that belongs to the task.
type union struct{ *dirs }

func openUnion(dir string, _ Config) (Driver, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	if err := checkWhiteouts(dir); err != nil {
		return nil, fmt.Errorf("storage: union: %w, or use the zfs driver (storage { zfs_dataset })", err)
	}
	if err := d.dropOldSpares(); err != nil {
		return nil, fmt.Errorf("storage: union: %w", err)
	}
	return union{d}, nil
}

// checkWhiteouts refuses file systems that cannot be the upper layer of a union.
func checkWhiteouts(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if fstype := unix.ByteSliceToString(st.Fstypename[:]); fstype != "ufs" && fstype != "tmpfs" {
		return fmt.Errorf("%s is on %s, which has no whiteouts: choose a state_dir on UFS", dir, fstype)
	}
	return nil
}

// lessWhiteouts keeps removed files that were never in the image from leaving
// whiteouts, which take room and make a directory seem full for ever to programs
// that list it without libc.
const lessWhiteouts = "whiteout=whenneeded"

// unite has what is written to an opened directory go to own.
func unite(by *mount.Descriptors, dir *mount.Point, own string, opts []string) error {
	if err := likeDir(own, dir.File()); err != nil {
		return err
	}
	return by.On(dir, mount.Mount{Type: "unionfs", Source: own, Options: append(opts, lessWhiteouts)})
}

func (union) Name() string { return "union" }

func (union) MountsOwn() bool { return false }

func (u union) Create(ctx context.Context, chain, task string, o Options) (string, error) {
	if err := u.useChain(chain, task); err != nil {
		return "", err
	}
	root, err := u.makePoint(task)
	err = func() error {
		if err = errors.Join(err, u.makeUpper(ctx, chain, task, o)); err != nil {
			return err
		}
		if err := mount.Do(mount.Mount{Type: "nullfs", Source: u.path("chains", chain), Target: root,
			Options: []string{"ro"}}); err != nil {
			return err
		}
		if err := mount.Do(mount.Mount{Type: "unionfs", Source: u.path("roots", task, "upper"), Target: root,
			Options: []string{lessWhiteouts}}); err != nil {
			return err
		}
		return o.furnish(ctx, root)
	}()
	if err != nil {
		return "", errors.Join(fmt.Errorf("storage: union: %w", err), u.Remove(ctx, task))
	}
	return root, nil
}

// makeUpper makes the directory that takes what a task writes, like the image's
// own root, with copies of the image's links where they are wanted.
func (u union) makeUpper(ctx context.Context, chain, task string, o Options) (err error) {
	like, err := openDir(u.path("chains", chain))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, like.Close()) }()
	upper := u.path("roots", task, "upper")
	if !o.Links {
		return likeDir(upper, like)
	}
	if u.takeSpare(chain, upper) {
		e := copied{path: upper}
		return errors.Join(unix.Fstat(int(like.Fd()), &e.st), e.finish()) // to move it has changed its times
	}
	top, err := u.linksOf(ctx, chain)
	if err != nil {
		return fmt.Errorf("links of the image: %w", err)
	}
	dir, err := openDir(u.path("roots", task))
	if err != nil {
		return err
	}
	return errors.Join(top.make(ctx, nil, dir, "upper"), dir.Close())
}
