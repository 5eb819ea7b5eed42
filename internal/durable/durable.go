// Package durable makes names outlive a power cut: a file that was synced is on
// the disk, but found there only when the directory that names it is synced too.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Sync has what was made, renamed or removed in a directory written to the disk.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MkdirAll is [os.MkdirAll] of directories that are on the disk when it returns.
// It syncs nothing where all are there.
func MkdirAll(dir string, mode fs.FileMode) error {
	fi, err := os.Stat(dir)
	if err == nil && fi.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MkdirAll(parent, mode); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, mode); err != nil { // as above, or it tells what is there instead
		return err
	}
	return Sync(filepath.Dir(dir))
}
