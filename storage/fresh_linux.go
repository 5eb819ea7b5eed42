package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncTree has all of a directory's file system written.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
