package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/freejail/freejail/internal/mount"
)

var drivers = map[string]func(string, Config) (Driver, error){"nfs": openNFS, "overlay": openOverlay,
	"readonly": openReadonly}

func detect(string, Config) string { return "overlay" }

// overlay is the development host's driver: an overlay mount a task.
type overlay struct{ *dirs }

func openOverlay(dir string, _ Config) (Driver, error) {
	d, err := openDirs(dir)
	if err != nil {
		return nil, err
	}
	return overlay{d}, nil
}

func (overlay) Name() string { return "overlay" }

func (overlay) MountsOwn() bool { return false }

func (o overlay) Create(ctx context.Context, chain, task string, opts Options) (string, error) {
	if err := o.useChain(chain, task); err != nil {
		return "", err
	}
	root, err := o.makePoint(task)
	err = func() error {
		if err != nil {
			return err
		}
		for _, d := range []string{"upper", "work"} {
			if err := os.Mkdir(o.path("roots", task, d), 0o755); err != nil {
				return err
			}
		}
		if err := mount.Do(mount.Mount{Type: "overlay", Source: "freejail", Target: root, Options: []string{
			"lowerdir=" + o.path("chains", chain), "upperdir=" + o.path("roots", task, "upper"),
			"workdir=" + o.path("roots", task, "work")}}); err != nil {
			return err
		}
		return opts.furnish(ctx, root)
	}()
	if err != nil {
		return "", errors.Join(fmt.Errorf("storage: overlay: %w", err), o.Remove(ctx, task))
	}
	return root, nil
}

// makePoint makes the directory that a task's root is mounted on.
func (d *dirs) makePoint(task string) (string, error) {
	dir := d.path("roots", task, "root")
	return dir, os.Mkdir(dir, 0o755)
}

// removePoint has nothing to remove: the mount point is within the root's own
// directory.
func (d *dirs) removePoint(string) error { return nil }

// restPoints has nothing to unmount.
func (d *dirs) restPoints() {}

// checkWhiteouts leaves it to the kernel, which tells at the mount.
func checkWhiteouts(string) error { return nil }

// unite has what is written to an opened directory go to own.
func unite(by *mount.Descriptors, dir *mount.Point, own string, opts []string) error {
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	upper, work := filepath.Join(own, "upper"), filepath.Join(own, "work")
	if err := errors.Join(likeDir(upper, dir.File()), os.Mkdir(work, 0o700)); err != nil {
		return err
	}
	return by.On(dir, mount.Mount{Type: "overlay", Source: "freejail", Options: append(
		[]string{"lowerdir=" + dir.Name(), "upperdir=" + upper, "workdir=" + work}, opts...)})
}
