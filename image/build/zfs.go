package build

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/internal/dataset"
)

// pool is a dataset of the builder's own, with a mount point. Each child holds
// what some first layers of an image have, and was cloned from the child with
// one step less. A child is whole when it has the snapshot @done, and can be
// found when it says by a property which chain of layers it has.
type pool struct {
	name, dir string // the dataset and its mount point
	chains    map[string]string
	lock      *os.File   // held shared by builds, exclusively for pruning
	device    *zfsDevice // nil where its kernel is not known
	noDevice  error      // why
	cleanUp   CleanUp
}

const (
	childPrefix = "b-"
	doneName    = "@done"
	chainKey    = "org.freejail:chain"
	usedKey     = "org.freejail:used" // seconds since 1970
)

// openPool takes the pool's lock.
func openPool(ctx context.Context, name string, how int) (*pool, error) {
	out, err := dataset.Run(ctx, "get", "-H", "-p", "-o", "value", "type,mountpoint", name)
	if err != nil {
		return nil, fmt.Errorf("%w: make it by zfs create -o mountpoint=/var/freejail-build %s", err, name)
	}
	f := strings.Split(strings.TrimSpace(out), "\n")
	if len(f) != 2 || f[0] != "filesystem" || !filepath.IsAbs(f[1]) {
		return nil, fmt.Errorf("the dataset %s is not a file system with a mount point: zfs set "+
			"mountpoint=/var/freejail-build %s", name, name)
	}
	dir, err := filepath.EvalSymlinks(f[1])
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, filepath.Join(dir, ".lock"), how)
	if err != nil {
		return nil, err
	}
	p := &pool{name: name, dir: dir, lock: lock}
	p.device, p.noDevice = openZFSDevice(name, lock)
	return p, nil
}

func (p *pool) close() (err error) {
	if p.device != nil {
		err = p.device.Close()
	}
	return errors.Join(err, p.lock.Close())
}

func (p *pool) dataset(child string) string { return p.name + "/" + child }

// root is where a child is mounted.
func (p *pool) root(child string) string { return filepath.Join(p.dir, child) }

func (p *pool) at(child string) mountedDataset {
	return mountedDataset{p.dataset(child), p.root(child)}
}

// mountedDataset is a dataset and where it is mounted.
type mountedDataset struct{ name, root string }

// links is the index of a child's hard links.
func (p *pool) links(child string) string { return filepath.Join(p.dir, child+".links") }

// keepLinks brings the index of a child's parent up to date for the child.
func (p *pool) keepLinks(l *linkIndex, from, child string, was, is map[string]state) error {
	if l.update(was, is); l.changed {
		return l.write(p.links(child))
	}
	return os.Link(p.links(from), p.links(child))
}

// child finds the one that has a chain; empty is none.
func (p *pool) child(ctx context.Context, chain string) (string, error) {
	if p.chains != nil {
		return p.chains[chain], nil
	}
	list, err := p.list(ctx)
	if err != nil {
		return "", err
	}
	p.chains = map[string]string{}
	for _, c := range list {
		if _, err := os.Stat(p.links(c.name)); err == nil && c.chain != "" && c.mounted {
			p.chains[c.chain] = c.name
		}
	}
	return p.chains[chain], nil
}

// inPool is a child as zfs list tells of it.
type inPool struct {
	name, chain string
	mounted     bool
	bytes, used int64
}

// list gives the children, the last used first.
func (p *pool) list(ctx context.Context) (out []inPool, err error) {
	text, err := dataset.Run(ctx, "list", "-H", "-p", "-r", "-d", "1", "-t", "filesystem",
		"-o", "name,mounted,used,"+chainKey+","+usedKey, "-S", usedKey, p.name)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		child, ok := strings.CutPrefix(f[0], p.dataset(childPrefix))
		if !ok || len(f) != 5 {
			continue
		}
		c := inPool{name: childPrefix + child, mounted: f[1] == "yes"}
		c.bytes, _ = strconv.ParseInt(f[2], 10, 64)
		if c.used, err = strconv.ParseInt(f[4], 10, 64); err == nil {
			c.chain = f[3]
		}
		out = append(out, c)
	}
	return out, nil
}

// own properties are what a child needs whatever its parent has.
var ownProperties = []string{"-o", "canmount=on", "-o", "atime=off", "-o", "setuid=on", "-o", "exec=on",
	"-o", "readonly=off", "-o", "snapdir=hidden"}

// create makes a child, empty or with what another has.
func (p *pool) create(ctx context.Context, from string) (child string, err error) {
	child = childPrefix + strings.ToLower(rand.Text())
	args := append([]string{"create"}, ownProperties...)
	if from != "" {
		args = append(append([]string{"clone"}, ownProperties...),
			"-o", "mountpoint="+p.root(child), p.dataset(from)+doneName)
	} else {
		args = append(args, "-o", "mountpoint="+p.root(child))
	}
	if _, err = dataset.Run(ctx, append(args, p.dataset(child))...); err != nil {
		return "", err
	}
	return child, nil
}

// done makes the state of a child one that later ones begin with.
func (p *pool) done(ctx context.Context, child string) error {
	if p.device != nil && p.device.snapshot(p.dataset(child)+doneName) == nil {
		return nil
	}
	_, err := dataset.Run(ctx, "snapshot", p.dataset(child)+doneName)
	return err
}

// remember lets later builds find chains, and tells that they were used.
func (p *pool) remember(ctx context.Context, made map[string]string) (err error) {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	for chain, child := range made {
		if p.chains != nil {
			p.chains[chain] = child
		}
		_, serr := dataset.Run(ctx, "set", chainKey+"="+chain, usedKey+"="+now, p.dataset(child))
		err = errors.Join(err, serr)
	}
	return err
}

// destroy removes a child with its snapshots, also when the build is cancelled.
func (p *pool) destroy(ctx context.Context, child string) error {
	if _, err := dataset.Run(context.WithoutCancel(ctx), "destroy", "-r", "-f", p.dataset(child)); err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{p.root(child), p.links(child)} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// prune removes what was not used for an age, and of the rest the least recently
// used until so many bytes are left, and what builds that were killed have left.
// Nobody else may use the pool.
func (p *pool) prune(ctx context.Context, age time.Duration, bytes int64) (freed int64, err error) {
	for {
		n, gone, err := p.pruneOnce(ctx, age, bytes)
		if freed += n; err != nil || gone == 0 {
			return freed, err
		}
	}
}

// pruneOnce tells also how many are gone: what they were clones of can go next.
func (p *pool) pruneOnce(ctx context.Context, age time.Duration, bytes int64) (freed int64, gone int, err error) {
	list, err := p.list(ctx)
	if err != nil {
		return 0, 0, err
	}
	oldest := time.Now().Add(-age).Unix()
	var total int64
	for _, c := range list {
		if total += c.bytes; c.chain != "" && c.used >= oldest && total <= bytes {
			continue
		}
		if c.chain == "" { // a build that was killed was at work on it
			if err := p.cleanUp.of(ctx, filepath.Join(p.dir, c.name), ""); err != nil {
				return freed, gone, err
			}
		}
		if err := p.destroy(ctx, c.name); err != nil {
			continue // others are clones of it
		}
		total, freed, gone = total-c.bytes, freed+c.bytes, gone+1
	}
	return freed, gone, nil
}
