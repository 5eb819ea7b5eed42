package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// syncTree has files and directories written one by one: sync(2) returns before
// the disk has anything, and there is no syncfs(2). Links are written with the
// directories that they are in.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
