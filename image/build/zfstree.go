package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
)

// zfsTree works on clones: each RUN has one of the chain before it, zfs diff
// names what it changed, and the clone becomes the next chain. So a step costs
// what it changes, however large the image is.
type zfsTree struct {
	pool   *pool
	chain  string // that the clone is of
	clone  string // at work; empty without
	links  *linkIndex
	was    map[string]state
	is     map[string]state
	made   []string // chains that are the build's own, where nothing is kept
	remove bool
}

// chainName is the dataset of so many first layers.
func chainName(diffs []digest.Digest) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(diffs)))
	return chainPrefix + hex.EncodeToString(sum[:16])
}

func (t *zfsTree) open(ctx context.Context, b *work) (string, error) {
	var err error
	if t.chain, err = t.ensure(ctx, b); err != nil {
		return "", err
	}
	if t.links, err = readLinkIndex(t.pool.links(t.chain)); err != nil {
		return "", err
	}
	if t.clone, err = t.pool.create(ctx, t.chain); err != nil {
		return "", err
	}
	_, err = zfsCommand(ctx, "snapshot", t.pool.dataset(t.clone)+"@start")
	return t.pool.root(t.clone), err
}

// ensure makes the dataset of the image's layers, from that of as many of them
// as there is one for.
func (t *zfsTree) ensure(ctx context.Context, b *work) (string, error) {
	diffs := b.config.RootFS.DiffIDs
	want := chainName(diffs)
	if t.pool.exists(ctx, want) {
		if _, err := zfsCommand(ctx, "set", usedKey+"="+now(), t.pool.dataset(want)); err != nil {
			return "", err
		}
		return want, t.pool.mount(ctx, want)
	}
	from, n := "", len(diffs)-1
	for ; n >= 0; n-- {
		if c := chainName(diffs[:n]); t.pool.exists(ctx, c) {
			from = c
			break
		}
	}
	child, err := t.pool.create(ctx, from)
	if err != nil {
		return "", err
	}
	if err := t.fill(ctx, b, from, child, max(n, 0)); err != nil {
		return "", errors.Join(err, t.pool.destroy(ctx, child))
	}
	t.made = append(t.made, want)
	return want, t.pool.finish(ctx, child, want)
}

// fill unpacks the layers after the first n into a child.
func (t *zfsTree) fill(ctx context.Context, b *work, from, child string, n int) error {
	root := t.pool.root(child)
	links := newLinkIndex()
	if from == "" {
		if err := makeRoot(root); err != nil {
			return err
		}
	} else {
		var err error
		if err = t.pool.mount(ctx, from); err == nil {
			links, err = readLinkIndex(t.pool.links(child))
		}
		if err == nil {
			_, err = zfsCommand(ctx, "snapshot", t.pool.dataset(child)+"@start")
		}
		if err != nil {
			return err
		}
	}
	img := &image.Image{Config: b.config, Layers: b.layers}
	if err := b.store.UnpackFrom(ctx, img, n, root, nil); err != nil {
		return err
	}
	if _, err := makeMountPoints(root); err != nil {
		return err
	}
	if from == "" {
		all, err := recordDir(ctx, root)
		if err != nil {
			return err
		}
		links.update(nil, all)
		return links.write(t.pool.links(child))
	}
	was, is, err := t.compare(ctx, b, from, child, links)
	if err != nil {
		return err
	}
	links.update(was, is)
	if err := links.write(t.pool.links(child)); err != nil {
		return err
	}
	return t.dropSnapshots(ctx, child)
}

// compare takes a second snapshot of a clone and finds what differs from its
// chain. Where zfs diff does not tell, the trees are walked.
func (t *zfsTree) compare(ctx context.Context, b *work, chain, clone string, links *linkIndex) (was, is map[string]state, err error) {
	if _, err := zfsCommand(ctx, "snapshot", t.pool.dataset(clone)+"@end"); err != nil {
		return nil, nil, err
	}
	old, err := os.OpenRoot(t.pool.root(chain))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	now, err := os.OpenRoot(t.pool.root(clone))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, now.Close()) }()
	lines, err := t.pool.diff(ctx, clone, "@start", "@end")
	if err == nil {
		return compareZFS(ctx, lines, rootSnapshot{old}, rootSnapshot{now}, links)
	}
	if ctx.Err() != nil {
		return nil, nil, err
	}
	b.progress("the tree is walked: %v", err)
	if was, err = record(ctx, old); err == nil {
		is, err = record(ctx, now)
	}
	return was, is, err
}

func (t *zfsTree) changes(ctx context.Context, b *work) (_ []change, _ map[string]state, err error) {
	t.was, t.is, err = t.compare(ctx, b, t.chain, t.clone, t.links)
	return diff(t.was, t.is), t.is, err
}

// keep makes the clone the dataset of the layers that there are now.
func (t *zfsTree) keep(ctx context.Context, b *work) error {
	clone, chain := t.clone, chainName(b.config.RootFS.DiffIDs)
	t.clone = ""
	if chain == t.chain {
		return t.pool.destroy(ctx, clone)
	}
	if err := t.settle(ctx, clone); err != nil {
		return errors.Join(err, t.pool.destroy(ctx, clone))
	}
	t.made = append(t.made, chain)
	return t.pool.finish(ctx, clone, chain)
}

func (t *zfsTree) settle(ctx context.Context, clone string) error {
	t.links.update(t.was, t.is)
	if err := t.links.write(t.pool.links(clone)); err != nil {
		return err
	}
	if _, err := makeMountPoints(t.pool.root(clone)); err != nil {
		return err
	}
	return t.dropSnapshots(ctx, clone)
}

func (t *zfsTree) dropSnapshots(ctx context.Context, child string) error {
	_, err := zfsCommand(ctx, "destroy", t.pool.dataset(child)+"@start,end")
	return err
}

// close leaves the chains for later builds, or nothing where there is no cache.
func (t *zfsTree) close() (err error) {
	ctx := context.Background()
	if t.clone != "" {
		err = t.pool.destroy(ctx, t.clone)
	}
	for i := len(t.made) - 1; i >= 0 && t.remove; i-- {
		if t.pool.exists(ctx, t.made[i]) {
			err = errors.Join(err, t.pool.destroy(ctx, t.made[i]))
		}
	}
	return err
}
