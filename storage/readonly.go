package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// readonly shows a tree by a read-only nullfs, and makes the writable paths
// writable: by a copy of each that belongs to the task, which needs neither ZFS
// nor unionfs, or by a union. As nfs the tree is one that is mounted elsewhere
// from a server.
type readonly struct {
	*dirs
	kind   string
	union  bool  // else copies
	memory bool  // what is written lies in a tmpfs
	size   int64 // of that tmpfs in bytes; 0 is no limit
}

func openReadonly(dir string, _ Config) (Driver, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	return readonly{dirs: d, kind: "readonly"}, nil
}

// Where what is written to an nfs root goes.
const (
	UpperMemory = "tmpfs"
	UpperLocal  = "local"
)

func openNFS(dir string, cfg Config) (Driver, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	r := readonly{dirs: d, kind: "nfs", union: !cfg.Copy, memory: cfg.Upper != UpperLocal, size: cfg.UpperSize}
	if r.union && !r.memory {
		if err := checkWhiteouts(dir); err != nil {
			return nil, fmt.Errorf("storage: nfs: %w", err)
		}
	}
	return r, nil
}

func (r readonly) Name() string { return r.kind }

// defaultWritable is for images that name no path.
var defaultWritable = []string{"/var", "/tmp"}

func (r readonly) Create(ctx context.Context, chain, task string, o Options) (string, error) {
	lower, err := r.begin(chain, task, o)
	if err != nil {
		return "", err
	}
	root, err := r.makePoint(task)
	if err == nil {
		err = r.build(ctx, chain, lower, root, task, o)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("storage: %s: %w", r.kind, err), r.Remove(ctx, task))
	}
	return root, nil
}

// begin makes the task's directory and returns the tree that its root shows.
func (r readonly) begin(chain, task string, o Options) (string, error) {
	if o.Lower == "" {
		return r.path("chains", chain), r.useChain(chain, task)
	}
	if err := checkName("task", task); err != nil {
		return "", err
	}
	if err := os.Mkdir(r.path("roots", task), 0o700); err != nil {
		return "", fmt.Errorf("storage: root: %w", err)
	}
	return o.Lower, nil
}

func (r readonly) build(ctx context.Context, chain, lower, root, task string, o Options) error {
	if o.Lower == "" {
		if err := r.mountPoints(ctx, chain, o); err != nil {
			return err
		}
	}
	if err := mount.Do(mount.Mount{Type: "nullfs", Source: lower, Target: root, Options: append(setuid(o), "ro")}); err != nil {
		return err
	}
	writable, err := writablePaths(root, o.Writable)
	if err != nil {
		return err
	}
	own := r.path("roots", task, "own")
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	if r.memory {
		opts := []string{"mode=700"}
		if r.size > 0 {
			opts = append(opts, "size="+strconv.FormatInt(r.size, 10))
		}
		if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: own, Options: opts}); err != nil {
			return err
		}
	}
	for i, w := range writable {
		if err := r.makeWritable(ctx, filepath.Join(root, w), filepath.Join(own, strconv.Itoa(i)), setuid(o)); err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
	}
	return nil
}

func setuid(o Options) []string {
	if o.NoSetuid {
		return []string{"nosuid"}
	}
	return nil
}

// makeWritable has what is written to a directory go to own, which is made.
// Where the kernel has no unions it becomes a copy.
func (r readonly) makeWritable(ctx context.Context, dir, own string, opts []string) error {
	if r.union {
		err := unite(dir, own, opts)
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		if err := removeTree(own); err != nil {
			return err
		}
	}
	if err := copyTree(ctx, dir, own); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return mount.Do(mount.Mount{Type: "nullfs", Source: own, Target: dir, Options: opts})
}

// likeDir makes a directory with the owner, mode and times of another.
func likeDir(dir, like string) error {
	e := copied{path: dir}
	if err := unix.Stat(like, &e.st); err != nil {
		return &os.PathError{Op: "stat", Path: like, Err: err}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return e.finish()
}

// Remove takes a root down even while its server is away.
func (r readonly) Remove(_ context.Context, task string) error {
	if r.kind == "nfs" {
		return r.remove(task, mount.ForceUnder)
	}
	return r.remove(task, mount.UnmountUnder)
}

// writablePaths are paths of a root without links, none within another.
func writablePaths(root string, want []string) ([]string, error) {
	if want == nil {
		want = defaultWritable
	}
	var out []string
	for _, w := range want {
		real, err := mount.Resolve(root, w)
		if errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("the root has no directory %s: %w", w, err)
		}
		if err != nil {
			return nil, fmt.Errorf("writable path: %w", err)
		}
		out = append(out, strings.TrimPrefix(real, root))
	}
	slices.Sort(out)
	var outer []string
	for _, w := range out {
		if !slices.ContainsFunc(outer, func(o string) bool { return w == o || strings.HasPrefix(w, o+"/") }) {
			outer = append(outer, w)
		}
	}
	return outer, nil
}

// mountPoints makes in a chain what will be mounted over: later the root can
// not be written to.
func (r readonly) mountPoints(ctx context.Context, chain string, o Options) error {
	unlock, err := r.locks.Lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	return MakePoints(r.path("chains", chain), o)
}

// MakePoints makes in a tree what roots of it will have mounts on.
func MakePoints(base string, o Options) error {
	if _, err := writablePaths(base, o.Writable); err != nil {
		return err
	}
	for _, d := range o.Dirs {
		if _, err := mount.Resolve(base, d); err != nil {
			return err
		}
	}
	for _, f := range o.Files {
		if _, err := mount.ResolveFile(base, f); err != nil {
			return err
		}
	}
	return nil
}
