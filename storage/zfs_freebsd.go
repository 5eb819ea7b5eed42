package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	zfs "github.com/mistifyio/go-zfs/v3"

	"github.com/freejail/freejail/internal/dataset"
)

// zfsDriver keeps a chain as a dataset with the snapshot @chain, and a root as
// a clone of it.
type zfsDriver struct {
	parent string
	dir    string
	roots  string // where the roots are mounted
	holders
	leftovers
}

func openZFS(dir string, cfg Config) (Driver, error) {
	if cfg.ZFSDataset == "" {
		return nil, errors.New("storage: zfs: name a dataset for freejail in storage { zfs_dataset }")
	}
	z := &zfsDriver{parent: cfg.ZFSDataset, dir: dir}
	for _, ds := range []struct{ name, mountpoint string }{{cfg.ZFSDataset, "none"},
		{z.parent + "/chains", path.Join(dir, "zfs-chains")}, {z.parent + "/roots", path.Join(dir, "zfs-roots")}} {
		if has, err := dataset.Has(ds.name); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		} else if has {
			continue
		}
		if _, err := zfs.CreateFilesystem(ds.name,
			map[string]string{"mountpoint": ds.mountpoint, "canmount": "off"}); err != nil {
			return nil, fmt.Errorf("storage: zfs: %w", err)
		}
	}
	d, err := zfs.GetDataset(z.parent + "/roots")
	if err != nil {
		return nil, fmt.Errorf("storage: zfs: %w", err)
	}
	if z.roots = d.Mountpoint; !path.IsAbs(z.roots) {
		return nil, fmt.Errorf("storage: zfs: the mountpoint of %s is %s: give it one, such as "+
			"zfs set mountpoint=%s %[1]s", d.Name, z.roots, path.Join(dir, "zfs-roots"))
	}
	return z, z.sweepHalfMade()
}

func (*zfsDriver) Name() string { return "zfs" }

func (*zfsDriver) MountsOwn() bool { return false }

func (z *zfsDriver) chain(name string) string { return z.parent + "/chains/" + name }
func (z *zfsDriver) root(name string) string  { return z.parent + "/roots/" + name }

// point is where a root is mounted.
func (z *zfsDriver) point(task string) string { return path.Join(z.roots, task) }

func (z *zfsDriver) sweepHalfMade() error {
	list, err := z.children(z.parent + "/chains")
	if err != nil {
		return err
	}
	for _, c := range list {
		if whole, err := z.whole(c); err != nil {
			return err
		} else if whole {
			continue
		}
		d, err := zfs.GetDataset(z.chain(c))
		if err != nil {
			return err
		}
		if err := d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount); err != nil {
			z.note(d.Name, fmt.Errorf("half-made chain: %w", err))
		}
	}
	return nil
}

func (z *zfsDriver) children(parent string) ([]string, error) {
	list, err := zfs.Filesystems(parent)
	if err != nil {
		return nil, fmt.Errorf("storage: zfs: %w", err)
	}
	var out []string
	for _, d := range list {
		if name, ok := strings.CutPrefix(d.Name, parent+"/"); ok && !strings.Contains(name, "/") {
			out = append(out, name)
		}
	}
	return out, nil
}

// EnsureChain makes each chain from the one before, so that images share what
// they have in common. It needs no care for a crash: a snapshot is on the disk
// after all that is in it.
func (z *zfsDriver) EnsureChain(ctx context.Context, chains []string, apply Apply) (release func(), err error) {
	if _, err := lastChain(chains); err != nil {
		return nil, err
	}
	return z.ensure(ctx, chains, apply)
}

func (z *zfsDriver) ensure(ctx context.Context, chains []string, apply Apply) (release func(), err error) {
	n := len(chains) - 1
	unlock, err := z.locks.Lock(ctx, chains[n])
	if err != nil {
		return nil, err
	}
	defer unlock()
	whole, err := z.whole(chains[n])
	if err != nil {
		return nil, err
	}
	if !whole {
		parent := ""
		if n > 0 {
			parent = chains[n-1]
			release, err := z.ensure(ctx, chains[:n], apply)
			if err != nil {
				return nil, err
			}
			defer release() // it has a clone then
		}
		if err := z.makeChain(ctx, chains[n], parent,
			func(dir string) error { return apply(dir, n, n+1) }); err != nil {
			return nil, err
		}
	}
	return z.hold(chains[n]), nil
}

// whole tells whether a chain is there.
func (z *zfsDriver) whole(chain string) (bool, error) {
	has, err := dataset.Has(z.chain(chain) + "@chain")
	if err != nil {
		return false, fmt.Errorf("storage: %w", err)
	}
	return has, nil
}

func (z *zfsDriver) makeChain(ctx context.Context, chain, parent string, fill func(string) error) error {
	d, err := z.begin(chain, parent)
	if err != nil {
		return fmt.Errorf("storage: zfs: %w", err)
	}
	err = fill(d.Mountpoint)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		_, err = d.Snapshot("chain", false)
	}
	if err != nil {
		return errors.Join(err, d.Destroy(zfs.DestroyForceUmount))
	}
	return nil
}

// begin makes a dataset that is empty or a clone of another chain.
func (z *zfsDriver) begin(chain, parent string) (*zfs.Dataset, error) {
	on := map[string]string{"canmount": "on"}
	if parent == "" {
		return zfs.CreateFilesystem(z.chain(chain), on)
	}
	s, err := zfs.GetDataset(z.chain(parent) + "@chain")
	if err != nil {
		return nil, err
	}
	return s.Clone(z.chain(chain), on)
}

func (z *zfsDriver) Create(ctx context.Context, chain, task string, o Options) (string, error) {
	if err := errors.Join(checkName("chain", chain), checkName("task", task)); err != nil {
		return "", err
	}
	// The quota limits what is unlike the image, metadata included: refquota would count the image too, which the
	// clone only refers to (zfsprops(7)).
	dir := z.point(task)
	if err := dataset.Clone(z.chain(chain)+"@chain", z.root(task), dir, o.DiskBytes); err != nil {
		return "", fmt.Errorf("storage: %w", err)
	}
	if err := o.furnish(ctx, dir); err != nil {
		return "", errors.Join(fmt.Errorf("storage: zfs: %w", err), z.Remove(ctx, task))
	}
	return dir, nil
}

func (z *zfsDriver) Remove(_ context.Context, task string) error {
	if err := checkName("task", task); err != nil {
		return err
	}
	err := dataset.Destroy(z.root(task), z.point(task))
	if errors.Is(err, dataset.ErrDependents) {
		// The snapshots that somebody makes of all datasets of a pool go too.
		d := &zfs.Dataset{Name: z.root(task), Type: zfs.DatasetFilesystem}
		err = d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount)
	}
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

func (z *zfsDriver) Tasks(context.Context) ([]string, error) { return z.children(z.parent + "/roots") }

func (z *zfsDriver) Chains(context.Context) ([]string, error) {
	return z.children(z.parent + "/chains")
}

// ChainSize is what a chain refers to; with compression that is less than its
// files are long.
func (z *zfsDriver) ChainSize(_ context.Context, chain string) (int64, error) {
	if err := checkName("chain", chain); err != nil {
		return 0, err
	}
	d, err := zfs.GetDataset(z.chain(chain))
	if err != nil {
		return 0, fmt.Errorf("storage: zfs: %w", err)
	}
	return int64(d.Referenced), nil
}

func (z *zfsDriver) RemoveChain(ctx context.Context, chain string) error {
	if err := checkName("chain", chain); err != nil {
		return err
	}
	unlock, err := z.locks.Lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	if z.isHeld(chain) {
		return fmt.Errorf("storage: chain %s: %w", chain, ErrInUse)
	}
	have, err := z.Chains(ctx)
	if err != nil || !slices.Contains(have, chain) {
		return err
	}
	whole, err := z.whole(chain)
	if err != nil {
		return err
	}
	if whole {
		s, err := zfs.GetDataset(z.chain(chain) + "@chain")
		if err != nil {
			return fmt.Errorf("storage: zfs: %w", err)
		}
		if clones, err := s.GetProperty("clones"); err != nil {
			return fmt.Errorf("storage: zfs: %w", err)
		} else if clones != "" && clones != "-" {
			return fmt.Errorf("storage: chain %s: %w by %s", chain, ErrInUse, clones)
		}
	}
	d, err := zfs.GetDataset(z.chain(chain))
	if err != nil {
		return fmt.Errorf("storage: zfs: %w", err)
	}
	// Without DestroyRecursiveClones: one that is cloned now refuses to go.
	return d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount)
}

// Place is the dataset of the chains.
func (z *zfsDriver) Place() string { return z.parent }

// ChainOwn is without what the chain before it has.
func (z *zfsDriver) ChainOwn(_ context.Context, chain string) (int64, error) {
	return z.used(z.chain(chain))
}

// RootOwn is what a clone has beside its chain.
func (z *zfsDriver) RootOwn(_ context.Context, task string) (int64, error) {
	return z.used(z.root(task))
}

// used counts with compression. A dataset that went meanwhile has nothing.
func (z *zfsDriver) used(name string) (int64, error) {
	d, err := zfs.GetDataset(name)
	if err != nil && strings.Contains(err.Error(), "does not exist") {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("storage: zfs: %w", err)
	}
	return int64(d.Used), nil
}
