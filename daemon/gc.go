package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/storage"
)

// pruneOptions are the host's settings, or what a request says instead.
// pulled has the names of images that were pulled for tasks.
func (d *Daemon) pruneOptions(ctx context.Context, r client.GCRequest, pulled map[string]bool) layout.PruneOptions {
	o := layout.PruneOptions{Older: d.cfg.GC.Older, MaxSize: d.cfg.GC.MaxSize}
	if r.Older != nil {
		o.Older = *r.Older
	}
	if r.MaxSize != nil {
		o.MaxSize = *r.MaxSize
	}
	o.Prunable = func(name string, _ digest.Digest) bool { return namedByPath(name) || pulled[name] }
	o.Unpacked = func(chain digest.Digest) (int64, error) { return d.unpackedSize(ctx, chain.Encoded()) }
	return o
}

// pulledNames has those of images that were pulled for tasks; problems tells of
// those that cannot be read.
func (d *Daemon) pulledNames() (pulled map[string]bool, problems []string, err error) {
	pulled = map[string]bool{}
	for img, err := range d.images.All() {
		var broken *layout.UnreadableError
		switch {
		case errors.As(err, &broken):
			d.log.Warn("the garbage collection leaves what it cannot read", "error", err)
			problems = append(problems, broken.Error())
		case err != nil:
			return nil, nil, err
		default:
			pulled[img.Name] = img.Pulled
		}
	}
	return pulled, problems, nil
}

// namedByPath knows the names that pathName gives.
func namedByPath(name string) bool {
	return strings.HasPrefix(name, "file/") || strings.HasPrefix(name, "path-sha256/")
}

// GC removes exited tasks of the CLI, images by a path that were not used for
// long, chains that no image needs, and blobs that no image names.
func (i taskImages) GC(ctx context.Context, r client.GCRequest) (*client.GCResult, error) {
	if r.Older != nil && *r.Older < 0 || r.MaxSize != nil && *r.MaxSize < 0 {
		return nil, client.Invalid("gc: invalid argument: an age or a size is negative")
	}
	d, res := i.d, &client.GCResult{}
	var err error
	if res.Tasks, err = d.tasks.Sweep(ctx, "cli"); err != nil {
		return res, err
	}
	pulled, problems, err := d.pulledNames()
	if err != nil {
		return res, err
	}
	res.Problems = problems
	if res.Images, err = d.images.Prune(ctx, d.pruneOptions(ctx, r, pulled)); err != nil {
		return res, err
	}
	damaged, err := d.images.Damaged()
	if err != nil {
		return res, err
	}
	for _, path := range damaged {
		res.Problems = append(res.Problems, "layers that no image needs stay until "+path+" is removed, as it may name them")
	}
	freed, err := d.images.GC(ctx)
	if err != nil {
		return res, err
	}
	res.Bytes = freed
	for _, s := range d.openStores() {
		for { // a chain that others are made of goes after them
			n, problems, err := d.removeChains(ctx, s)
			if res.Chains += n; err != nil {
				return res, err
			}
			if n == 0 {
				res.Problems = append(res.Problems, problems...)
				break
			}
		}
		res.Problems = append(res.Problems, s.Leftovers()...)
	}
	return res, nil
}

// removeChains removes those that no image and no task needs. A start that is
// under way holds what it needs. One that cannot be removed is a problem, and
// keeps no other.
func (d *Daemon) removeChains(ctx context.Context, s storage.Driver) (removed int, problems []string, err error) {
	// Before the images: one that is named afterwards makes its chain anew.
	chains, err := s.Chains(ctx)
	if err != nil {
		return 0, nil, err
	}
	needed, err := d.neededChains()
	if err != nil {
		return 0, nil, err
	}
	for _, c := range chains {
		if needed[c] || d.tasks.UsesChain(c) {
			continue
		}
		switch err := s.RemoveChain(ctx, c); {
		case errors.Is(err, storage.ErrInUse):
		case ctx.Err() != nil:
			return removed, problems, ctx.Err()
		case err != nil:
			problems = append(problems, err.Error())
		default:
			removed++
		}
	}
	return removed, problems, nil
}

// neededChains are those of the images that tasks can start.
func (d *Daemon) neededChains() (map[string]bool, error) {
	needed := map[string]bool{}
	for img, err := range d.images.All() {
		var broken *layout.UnreadableError
		if errors.As(err, &broken) {
			continue // no task can start it
		}
		if err != nil {
			return nil, err
		}
		needed[img.ChainID.Encoded()] = true
	}
	return needed, nil
}

// unpackedSize is 0 for what is not unpacked. Drivers that keep their chains in
// the same directory have the same one.
func (d *Daemon) unpackedSize(ctx context.Context, chain string) (int64, error) {
	for _, s := range d.openStores() {
		chains, err := s.Chains(ctx)
		if err != nil {
			return 0, err
		}
		if slices.Contains(chains, chain) {
			return s.ChainSize(ctx, chain)
		}
	}
	return 0, nil
}
