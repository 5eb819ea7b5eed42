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
	"github.com/freejail/freejail/internal/remove"
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

// MountsOwn: where the image has a file its directory cannot be written to.
func (readonly) MountsOwn() bool { return true }

// defaultWritable is for images that name no path.
var defaultWritable = []string{"/var", "/tmp"}

// EnsureChain makes what roots of the chain would otherwise each need a skeleton for.
func (r readonly) EnsureChain(ctx context.Context, chains []string, apply Apply) (release func(), err error) {
	return r.dirs.EnsureChain(ctx, chains, func(dir string, first, end int) error {
		if err := apply(dir, first, end); err != nil {
			return err
		}
		return makeOwnPoints(dir)
	})
}

func (r readonly) Create(ctx context.Context, chain, task string, o Options) (string, error) {
	lower, err := r.begin(chain, task, o)
	if err != nil {
		return "", err
	}
	root, err := r.makePoint(task)
	if err == nil {
		err = r.build(ctx, lower, root, task, o)
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

func (r readonly) build(ctx context.Context, lower, root, task string, o Options) (err error) {
	by, err := mount.OpenDescriptors(r.path("roots", task, "fd"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, by.Close()) }()
	release, err := by.Use()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := r.show(ctx, by, lower, root, task, o); err != nil {
		return err
	}
	own := r.path("roots", task, "own")
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	if r.memory {
		opts := []string{"mode=700"}
		if n := r.memorySize(o); n > 0 {
			opts = append(opts, "size="+strconv.FormatInt(n, 10))
		}
		if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: own, Options: opts}); err != nil {
			return err
		}
	}
	return r.makeWritable(ctx, by, root, own, o)
}

// makeWritable has what is written to the writable paths go to directories in
// own.
func (r readonly) makeWritable(ctx context.Context, by *mount.Descriptors, root, own string, o Options) error {
	in, err := mount.OpenRoot(root)
	if err != nil {
		return err
	}
	defer in.Close()
	writable, inner, err := writablePaths(ctx, in, o)
	for i, w := range writable {
		if err == nil {
			if err = r.writableDir(ctx, by, w, filepath.Join(own, strconv.Itoa(i)), setuid(o)); err != nil {
				err = fmt.Errorf("%s: %w", w.Path(), err)
			}
		}
		err = errors.Join(err, w.Close())
	}
	if err == nil {
		err = makeAll(ctx, in, inner)
	}
	if err == nil {
		err = o.furnishWritable(in)
	}
	return err
}

// memorySize is that of the tmpfs which a task writes to, in bytes.
func (r readonly) memorySize(o Options) int64 {
	if r.size > 0 && o.DiskBytes > 0 {
		return min(r.size, o.DiskBytes)
	}
	return max(r.size, o.DiskBytes)
}

func setuid(o Options) []string {
	if o.NoSetuid {
		return []string{"nosuid"}
	}
	return nil
}

// writableDir has what is written to a directory go to own, which is made. Where
// the kernel has no unions it becomes a copy.
func (r readonly) writableDir(ctx context.Context, by *mount.Descriptors, dir *mount.Point, own string,
	opts []string) error {
	if r.union {
		err := unite(by, dir, own, opts)
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		if err := remove.Tree(own); err != nil {
			return err
		}
	}
	if err := copyTree(ctx, dir.File(), own); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return by.On(dir, mount.Mount{Type: "nullfs", Source: own, Options: opts})
}

// likeDir makes a directory with the owner, mode and times of an opened one.
func likeDir(dir string, like *os.File) error {
	e := copied{path: dir}
	if err := unix.Fstat(int(like.Fd()), &e.st); err != nil {
		return &os.PathError{Op: "stat", Path: like.Name(), Err: err}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return e.finish()
}

// Remove takes a root down even while its server is away.
func (r readonly) Remove(_ context.Context, task string) error {
	if r.kind == "nfs" {
		return r.remove(task, mount.ForceUnder, func() {})
	}
	return r.release(task, func() {})
}

// writable are the paths that are to be writable.
func (o Options) writable() []string {
	if o.Writable == nil {
		return defaultWritable
	}
	return o.Writable
}

// writablePaths opens the writable directories of a root, of those within
// another only that. What is missing has no skeleton, as it is within another: inner are to be
// made when that can be written to.
func writablePaths(ctx context.Context, root *mount.Root, o Options) (outer []*mount.Point, inner []point, err error) {
	var all []*mount.Point
	for _, w := range o.writablePoints() {
		if err := ctx.Err(); err != nil {
			return all, nil, err
		}
		p, err := w.open(root)
		if errors.Is(err, unix.EROFS) {
			inner = append(inner, w)
			continue
		}
		if err != nil {
			return all, nil, fmt.Errorf("writable path: %w", err)
		}
		all = append(all, p)
	}
	outer, err = outermost(all)
	return outer, inner, err
}

// outermost closes the points that are within others.
func outermost(all []*mount.Point) (outer []*mount.Point, err error) {
	slices.SortFunc(all, func(a, b *mount.Point) int { return strings.Compare(a.Path(), b.Path()) })
	var errs []error
	for _, p := range all {
		if slices.ContainsFunc(outer, func(o *mount.Point) bool {
			return p.Path() == o.Path() || strings.HasPrefix(p.Path(), o.Path()+"/")
		}) {
			errs = append(errs, p.Close())
			continue
		}
		outer = append(outer, p)
	}
	return outer, errors.Join(errs...)
}

// MakePoints makes in a tree what roots of it will have mounts on.
func MakePoints(base string, o Options) error {
	root, err := mount.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := makeAll(context.Background(), root, o.points()); err != nil {
		return err
	}
	for _, f := range o.Own {
		if err := f.write(root); err != nil {
			return err
		}
	}
	return nil
}
