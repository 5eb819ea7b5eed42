package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	zfs "github.com/mistifyio/go-zfs/v3"

	"github.com/freejail/freejail/internal/dataset"
	"github.com/freejail/freejail/internal/mount"
)

// zfsDriver keeps a chain as a dataset with the snapshot @chain, and a root as
// a clone of it: below spares, or where roots has properties of its own, below
// that and with the task's name.
type zfsDriver struct {
	parent string
	dir    string
	roots  string // where the roots are mounted
	clones *clones
	holders
	leftovers
}

func openZFS(dir string, cfg Config) (Driver, error) {
	if cfg.ZFSDataset == "" {
		return nil, errors.New("storage: zfs: name a dataset for freejail in storage { zfs_dataset }")
	}
	z := &zfsDriver{parent: cfg.ZFSDataset, dir: dir}
	for _, ds := range []struct{ name, mountpoint string }{{cfg.ZFSDataset, "none"},
		{z.parent + "/chains", path.Join(dir, "zfs-chains")}, {z.parent + "/roots", path.Join(dir, "zfs-roots")},
		// At the host's start none of these is mounted: what ran then is gone.
		{z.parent + "/spares", "none"}} {
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
	if err := z.sweepHalfMade(); err != nil {
		return nil, err
	}
	if z.clones, err = z.openClones(); err != nil {
		return nil, fmt.Errorf("storage: zfs: %w", err)
	}
	return z, nil
}

// openClones has those destroyed that no root is mounted of.
func (z *zfsDriver) openClones() (*clones, error) {
	c := newClones(z.parent+"/spares", func(name string, kind spareKind) error {
		return dataset.Clone(z.chain(kind.chain)+"@chain", name, kind.quota)
	}, destroySpare, z.note)
	var err error
	if c.none, err = hasOwn(z.parent + "/roots"); err != nil {
		return nil, err
	}
	there, err := zfs.Filesystems(c.parent)
	if err != nil {
		return nil, err
	}
	mounted, err := z.mounted()
	if err != nil {
		return nil, err
	}
	unused := map[string]string{}
	for _, d := range there {
		chain := path.Base(strings.TrimSuffix(d.Origin, "@chain"))
		if m, used := mounted[d.Name]; used && z.taskOn(m) != "" {
			c.chains[d.Name] = chain
		} else if d.Name != c.parent {
			unused[d.Name] = chain
		}
	}
	for name, chain := range unused {
		c.drop(name, chain)
	}
	return c, nil
}

// hasOwn tells whether a dataset has properties of its own, beside where it is mounted, that those below it inherit.
func hasOwn(name string) (bool, error) {
	text, err := dataset.Run(context.Background(), "get", "-Hp", "-s", "local,received", "-o", "property", "all", name)
	if err != nil {
		return false, err
	}
	for property := range strings.Lines(text) {
		property = strings.TrimSuffix(property, "\n")
		isUsers := strings.Contains(property, ":") // who may write anything there
		if property != "mountpoint" && property != "canmount" && !isUsers {
			return true, nil
		}
	}
	return false, nil
}

// mounted are the mounts of what is below spares, by dataset.
func (z *zfsDriver) mounted() (map[string]mount.Info, error) {
	all, err := mount.List()
	if err != nil {
		return nil, err
	}
	out := map[string]mount.Info{}
	for _, m := range all {
		if z.isSpare(m) {
			out[m.Source] = m
		}
	}
	return out, nil
}

func (z *zfsDriver) isSpare(m mount.Info) bool {
	return m.Type == "zfs" && strings.HasPrefix(m.Source, z.parent+"/spares/")
}

// taskOn is the task on whose root a dataset below spares is mounted; empty where it is elsewhere.
func (z *zfsDriver) taskOn(m mount.Info) string {
	task := path.Base(m.Target)
	at, err := mount.At(z.point(task))
	if err != nil || at.Source != m.Source && at.Target != m.Target { // at may be what somebody mounted over it
		return ""
	}
	return task
}

// spareOf is what a task's root is mounted of, if that is a dataset below spares.
func (z *zfsDriver) spareOf(task string) (m mount.Info, is bool, err error) {
	m, err = mount.At(z.point(task))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil || z.isSpare(m) || m.Source == z.root(task) || path.Base(m.Target) != task {
		return m, err == nil && z.isSpare(m), err
	}
	mounted, err := z.mounted()
	for _, below := range mounted {
		if below.Target == m.Target {
			return m, false, fmt.Errorf("%s is mounted over the root of task %s, at %s: unmount it", m.Source, task,
				m.Target)
		}
	}
	return m, false, err
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
	dir := z.point(task)
	if err := z.mountClone(chain, task, dir, o.DiskBytes); err != nil {
		return "", fmt.Errorf("storage: %w", err)
	}
	if err := o.furnish(ctx, dir); err != nil {
		return "", errors.Join(fmt.Errorf("storage: zfs: %w", err), z.Remove(ctx, task))
	}
	return dir, nil
}

// mountClone mounts a spare, or else a clone that is made for it. The quota limits what is unlike the image, metadata
// included: refquota would count the image too, which the clone only refers to (zfsprops(7)).
func (z *zfsDriver) mountClone(chain, task, dir string, quota int64) error {
	m, is, err := z.spareOf(task)
	if err != nil {
		return err
	}
	if is {
		return fmt.Errorf("%s is mounted on %s: %w", m.Source, m.Target, fs.ErrExist)
	}
	if has, err := dataset.Has(z.root(task)); err != nil {
		return err
	} else if has {
		return fmt.Errorf("%s: %w", z.root(task), fs.ErrExist)
	}
	if spare := z.clones.take(spareKind{chain, quota}); spare != "" {
		if dataset.Mount(spare, dir) == nil {
			return nil
		}
		z.clones.drop(spare, chain) // somebody destroyed it, or a new one tells why not
	}
	name := z.root(task)
	if !z.clones.none {
		name = z.clones.name(chain)
	}
	if err := dataset.Clone(z.chain(chain)+"@chain", name, quota); err != nil {
		z.clones.forget(name)
		return err
	}
	err = dataset.Mount(name, dir)
	switch {
	case err == nil:
		return nil
	case z.clones.none:
		return errors.Join(err, dataset.Destroy(name, dir))
	}
	z.clones.drop(name, chain)
	return err
}

func (z *zfsDriver) Remove(_ context.Context, task string) error {
	if err := checkName("task", task); err != nil {
		return err
	}
	m, is, err := z.spareOf(task)
	if err == nil && is {
		if err = m.Release(); err == nil {
			z.clones.drop(m.Source, "")
		}
	}
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return destroyWhole(z.root(task), z.point(task))
}

// destroyWhole unmounts a clone from a directory and destroys it, with the snapshots that somebody makes of all
// datasets of a pool.
func destroyWhole(name, dir string) error {
	err := dataset.Destroy(name, dir)
	if errors.Is(err, dataset.ErrDependents) {
		d := &zfs.Dataset{Name: name, Type: zfs.DatasetFilesystem}
		err = d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount)
	}
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	return nil
}

// destroySpare destroys what nothing is to be mounted of, with its snapshots. It unmounts nothing.
func destroySpare(name string) error {
	err := dataset.Destroy(name, "")
	if !errors.Is(err, dataset.ErrDependents) {
		return err
	}
	mounts, lerr := mount.List()
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	for _, m := range mounts {
		if m.Type == "zfs" && m.Source == name {
			return fmt.Errorf("it is mounted at %s, which freejail did not: unmount it", m.Target)
		}
	}
	d := &zfs.Dataset{Name: name, Type: zfs.DatasetFilesystem}
	return d.Destroy(zfs.DestroyRecursive)
}

func (z *zfsDriver) Tasks(context.Context) ([]string, error) {
	names, err := z.children(z.parent + "/roots")
	if err != nil {
		return nil, err
	}
	mounted, err := z.mounted()
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	for _, m := range mounted {
		if task := z.taskOn(m); task != "" {
			names = append(names, task)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Rest destroys what is kept for later tasks, and waits for what is being destroyed.
func (z *zfsDriver) Rest(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- z.clones.dropAll(ctx, "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done(): // the pool is suspended, say
		return ctx.Err()
	}
}

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
	if err := z.clones.dropAll(ctx, chain); err != nil {
		return err
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
		clones, err := z.clonesOf(chain)
		if err != nil {
			return fmt.Errorf("storage: zfs: %w", err)
		}
		if len(clones) > 0 {
			return fmt.Errorf("storage: chain %s: %w by %s", chain, ErrInUse, strings.Join(clones, ","))
		}
	}
	d, err := zfs.GetDataset(z.chain(chain))
	if err != nil {
		return fmt.Errorf("storage: zfs: %w", err)
	}
	// Without DestroyRecursiveClones: one that is cloned now refuses to go.
	return d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount)
}

// clonesOf are a chain's clones, without those below spares that no task has: a pool that was exported and imported
// again has some that were dropped from the list of them meanwhile.
func (z *zfsDriver) clonesOf(chain string) ([]string, error) {
	s, err := zfs.GetDataset(z.chain(chain) + "@chain")
	if err != nil {
		return nil, err
	}
	text, err := s.GetProperty("clones")
	if err != nil || text == "" || text == "-" {
		return nil, err
	}
	mounted, err := z.mounted()
	if err != nil {
		return nil, err
	}
	clones := strings.Split(text, ",")
	return slices.DeleteFunc(clones, func(name string) bool {
		_, used := mounted[name]
		return !used && strings.HasPrefix(name, z.parent+"/spares/") && destroySpare(name) == nil
	}), nil
}

// Place is the dataset of the chains.
func (z *zfsDriver) Place() string { return z.parent }

// ChainOwn is without what the chain before it has.
func (z *zfsDriver) ChainOwn(_ context.Context, chain string) (int64, error) {
	return z.used(z.chain(chain))
}

// RootOwn is what a clone has beside its chain.
func (z *zfsDriver) RootOwn(_ context.Context, task string) (int64, error) {
	if m, is, err := z.spareOf(task); err != nil {
		return 0, fmt.Errorf("storage: %w", err)
	} else if is {
		return z.used(m.Source)
	}
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
