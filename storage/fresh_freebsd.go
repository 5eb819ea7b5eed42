package storage

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var bootID = func() (string, error) {
	b, err := unix.SysctlRaw("kern.boot_id")
	if err != nil {
		return "", fmt.Errorf("sysctl kern.boot_id: %w", err)
	}
	return hex.EncodeToString(b), nil
}

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
