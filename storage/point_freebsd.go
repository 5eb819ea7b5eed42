package storage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/freejail/freejail/internal/mount"
)

// pointsSize is room for the mount points of far more tasks than a host can have.
const pointsSize = "67108864"

// pointsTime is how long it stays mounted without any, for the next task of a host that had one.
const pointsTime = time.Second

// points guards the directories that hold mount points.
var points sync.Mutex

// makePoint makes the directory that a task's root is mounted on.
//
// A mount first writes the directory that it covers to the disk (vinvalbuf in
// vfs_domount_first of sys/kern/vfs_mount.c), and one that was just made on UFS
// has something to write: that takes longer than the rest of a start. So these
// directories lie in a small tmpfs, which is there as long as any of them is, and a moment more.
func (d *dirs) makePoint(task string) (string, error) {
	points.Lock()
	defer points.Unlock()
	base := d.path("points")
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if at, err := mount.At(base); err != nil {
		return "", err
	} else if at.Target != base {
		if err := mount.Do(mount.Mount{Type: "tmpfs", Target: base,
			Options: []string{"mode=700", "size=" + pointsSize}}); err != nil {
			return "", err
		}
	}
	dir := d.path("points", task)
	return dir, os.Mkdir(dir, 0o755)
}

// removePoint removes the mount point of a task's root, which is unmounted. None is no error.
func (d *dirs) removePoint(task string) error {
	points.Lock()
	defer points.Unlock()
	if err := os.Remove(d.path("points", task)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	empty, err := d.emptyPoints()
	if empty {
		d.restPoints()
	}
	return err
}

// restPoints unmounts the directory of the mount points if there are none for a moment.
func (d *dirs) restPoints() {
	time.AfterFunc(pointsTime, func() { _ = d.unmountPoints() }) // the next that is removed tries again
}

// Rest unmounts what is kept mounted for the next task.
func (d *dirs) Rest(context.Context) error { return d.unmountPoints() }

// unmountPoints unmounts the directory of the mount points if there are none.
func (d *dirs) unmountPoints() error {
	points.Lock()
	defer points.Unlock()
	empty, err := d.emptyPoints()
	if err != nil || !empty {
		return err
	}
	at, err := mount.At(d.path("points"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || at.Target != d.path("points") {
		return err
	}
	return at.Unmount(false)
}

// emptyPoints is true where there is no mount point, or no directory for them.
func (d *dirs) emptyPoints() (bool, error) {
	f, err := os.Open(d.path("points"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.Readdirnames(1)
	err2 := f.Close()
	if errors.Is(err, io.EOF) {
		return true, err2
	}
	return false, errors.Join(err, err2)
}
