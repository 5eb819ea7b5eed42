package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// pointsSize is room for the mount points of far more tasks than a host can have.
const pointsSize = "67108864"

// points guards the directories that hold mount points.
var points sync.Mutex

// makePoint makes the directory that a task's root is mounted on.
//
// A mount first writes the directory that it covers to the disk (vinvalbuf in
// vfs_domount_first of sys/kern/vfs_mount.c), and one that was just made on UFS
// has something to write: that takes longer than the rest of a start. So these
// directories lie in a small tmpfs, which is there as long as any of them is.
func (d *dirs) makePoint(task string) (string, error) {
	points.Lock()
	defer points.Unlock()
	base := d.path("points")
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if there, err := isMountPoint(base); err != nil {
		return "", err
	} else if !there {
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
	dir := d.path("points", task)
	points.Lock()
	defer points.Unlock()
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	base := d.path("points")
	if there, err := isMountPoint(base); err != nil || !there {
		return err
	}
	left, err := os.ReadDir(base)
	if err != nil || len(left) > 0 {
		return err
	}
	return mount.Unmount(base)
}

// isMountPoint is false for what does not exist.
func isMountPoint(dir string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return unix.ByteSliceToString(st.Mntonname[:]) == dir, nil
}
