package images

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
func (l *Library) pruneOptions(ctx context.Context, r client.GCRequest, pulled map[string]bool) layout.PruneOptions {
	o := layout.PruneOptions{Older: l.Config.GC.Older, MaxSize: l.Config.GC.MaxSize}
	if r.Older != nil {
		o.Older = *r.Older
	}
	if r.MaxSize != nil {
		o.MaxSize = *r.MaxSize
	}
	o.Prunable = func(name string, _ digest.Digest) bool { return namedByPath(name) || pulled[name] }
	o.Unpacked = func(chain digest.Digest) (int64, error) { return l.unpackedSize(ctx, chain.Encoded()) }
	return o
}

// pulledNames has those of images that were pulled for tasks; problems tells of
// those that cannot be read.
func (l *Library) pulledNames() (pulled map[string]bool, problems []string, err error) {
	pulled = map[string]bool{}
	for img, err := range l.Store.All() {
		var broken *layout.UnreadableError
		switch {
		case errors.As(err, &broken):
			l.Log.Warn("the garbage collection leaves what it cannot read", "error", err)
			problems = append(problems, broken.Error())
		case err != nil:
			return nil, nil, err
		default:
			pulled[img.Name] = img.Pulled
		}
	}
	return pulled, problems, nil
}

// namedByPath knows the names that PathName gives.
func namedByPath(name string) bool {
	return strings.HasPrefix(name, "file/") || strings.HasPrefix(name, "path-sha256/")
}

// GC removes exited tasks of the CLI, images by a path that were not used for
// long, chains that no image needs, and blobs that no image names.
func (l *Library) GC(ctx context.Context, r client.GCRequest) (*client.GCResult, error) {
	if r.Older != nil && *r.Older < 0 || r.MaxSize != nil && *r.MaxSize < 0 {
		return nil, client.Invalid("gc: invalid argument: an age or a size is negative")
	}
	res := &client.GCResult{}
	var err error
	if res.Tasks, err = l.Tasks.Sweep(ctx, "cli"); err != nil {
		return res, err
	}
	pulled, problems, err := l.pulledNames()
	if err != nil {
		return res, err
	}
	res.Problems = problems
	if res.Images, err = l.Store.Prune(ctx, l.pruneOptions(ctx, r, pulled)); err != nil {
		return res, err
	}
	damaged, err := l.Store.Damaged()
	if err != nil {
		return res, err
	}
	for _, path := range damaged {
		res.Problems = append(res.Problems, "layers that no image needs stay until "+path+
			" is removed, as it may name them")
	}
	freed, err := l.Store.GC(ctx)
	if err != nil {
		return res, err
	}
	res.Bytes = freed
	for _, s := range l.Stores() {
		for { // a chain that others are made of goes after them
			n, problems, err := l.removeChains(ctx, s)
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
func (l *Library) removeChains(ctx context.Context, s storage.Driver) (removed int, problems []string, err error) {
	// Before the images: one that is named afterwards makes its chain anew.
	chains, err := s.Chains(ctx)
	if err != nil {
		return 0, nil, err
	}
	needed, err := l.neededChains()
	if err != nil {
		return 0, nil, err
	}
	for _, c := range chains {
		if needed[c] || l.Tasks.UsesChain(c) {
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
func (l *Library) neededChains() (map[string]bool, error) {
	needed := map[string]bool{}
	for img, err := range l.Store.All() {
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
func (l *Library) unpackedSize(ctx context.Context, chain string) (int64, error) {
	for _, s := range l.Stores() {
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
