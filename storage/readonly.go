package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/internal/mount"
)

// readonly shows the chain by a read-only nullfs, and on it a copy of each
// writable path that belongs to the task. It needs neither ZFS nor unionfs;
// what it costs is the copies.
type readonly struct{ *dirs }

func openReadonly(dir string, _ Config) (Driver, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	return readonly{d}, nil
}

func (readonly) Name() string { return "readonly" }

// defaultWritable is for images that name no path.
var defaultWritable = []string{"/var", "/tmp"}

func (r readonly) Create(ctx context.Context, chain, task string, o Options) (string, error) {
	if err := r.useChain(chain, task); err != nil {
		return "", err
	}
	root, err := r.makePoint(task)
	err = func() error {
		if err != nil {
			return err
		}
		writable, err := r.mountPoints(ctx, chain, o)
		if err != nil {
			return err
		}
		base := r.path("chains", chain)
		if err := mount.Do(mount.Mount{Type: "nullfs", Source: base, Target: root, Options: []string{"ro"}}); err != nil {
			return err
		}
		for i, w := range writable {
			own := r.path("roots", task, "writable"+strconv.Itoa(i))
			if err := copyTree(ctx, filepath.Join(base, w), own); err != nil {
				return fmt.Errorf("copy %s: %w", w, err)
			}
			if err := mount.Do(mount.Mount{Type: "nullfs", Source: own, Target: filepath.Join(root, w)}); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		return "", errors.Join(fmt.Errorf("storage: readonly: %w", err), r.Remove(ctx, task))
	}
	return root, nil
}

// mountPoints makes in the chain what will be mounted over: later the root can
// not be written to. It returns the writable paths without links, none within
// another.
func (r readonly) mountPoints(ctx context.Context, chain string, o Options) ([]string, error) {
	unlock, err := r.locks.Lock(ctx, chain)
	if err != nil {
		return nil, err
	}
	defer unlock()
	base := r.path("chains", chain)
	want := o.Writable
	if want == nil {
		want = defaultWritable
	}
	var out []string
	for _, w := range want {
		real, err := mount.Resolve(base, w)
		if err != nil {
			return nil, fmt.Errorf("writable path: %w", err)
		}
		out = append(out, strings.TrimPrefix(real, base))
	}
	slices.Sort(out)
	var outer []string
	for _, w := range out {
		if !slices.ContainsFunc(outer, func(o string) bool { return w == o || strings.HasPrefix(w, o+"/") }) {
			outer = append(outer, w)
		}
	}
	for _, d := range o.Dirs {
		if _, err := mount.Resolve(base, d); err != nil {
			return nil, err
		}
	}
	for _, f := range o.Files {
		if _, err := mount.ResolveFile(base, f); err != nil {
			return nil, err
		}
	}
	return outer, nil
}
