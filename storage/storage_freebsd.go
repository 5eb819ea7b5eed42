package storage

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

var drivers = map[string]func(string, Config) (Driver, error){"nfs": openNFS, "readonly": openReadonly, "union": openUnion, "zfs": openZFS}

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

// unite has what is written to an opened directory go to own.
func unite(by *mount.Descriptors, dir *mount.Point, own string, opts []string) error {
	if err := likeDir(own, dir.File()); err != nil {
		return err
	}
	return by.On(dir, mount.Mount{Type: "unionfs", Source: own, Options: opts})
}

func (union) Name() string { return "union" }

func (u union) Create(ctx context.Context, chain, task string, _ Options) (string, error) {
	if err := u.useChain(chain, task); err != nil {
		return "", err
	}
	upper := u.path("roots", task, "upper")
	root, err := u.makePoint(task)
	err = func() error {
		if err = errors.Join(err, os.Mkdir(upper, 0o755)); err != nil {
			return err
		}
		if err := mount.Do(mount.Mount{Type: "nullfs", Source: u.path("chains", chain), Target: root, Options: []string{"ro"}}); err != nil {
			return err
		}
		return mount.Do(mount.Mount{Type: "unionfs", Source: upper, Target: root})
	}()
	if err != nil {
		return "", errors.Join(fmt.Errorf("storage: union: %w", err), u.Remove(ctx, task))
	}
	return root, nil
}
