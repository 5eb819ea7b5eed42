// Package durable makes files outlive a power cut: one that was synced is on the
// disk, but found there only when the directory that names it is synced too.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Sync has what was made, renamed or removed in a directory written to the disk.
func Sync(dir string) error { return syncDir(os.Open(dir)) }

// SyncIn is Sync within a root.
func SyncIn(root *os.Root, dir string) error { return syncDir(root.Open(dir)) }

func syncDir(d *os.File, err error) error {
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

// MkdirAllIn is MkdirAll within a root.
func MkdirAllIn(root *os.Root, dir string, mode fs.FileMode) error {
	fi, err := root.Stat(dir)
	if err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != "." {
		if err := MkdirAllIn(root, parent, mode); err != nil {
			return err
		}
	}
	if err := root.MkdirAll(dir, mode); err != nil {
		return err
	}
	return SyncIn(root, parent)
}

// Commit syncs and closes a file that has a temporary name in a root, and gives it
// its own. After an error, such as err of who wrote it, it removes the file
// instead. The name is on the disk once its directory is synced.
func Commit(root *os.Root, f *os.File, temp, name string, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	return nil
}

// Unfinished begins the names of files that Replace has not finished. Those that a
// crash left can be removed.
const Unfinished = ".new-"

// Replace makes what write writes the content of a file, in one step. As with
// Commit, the directory is still to be synced. Errors of the file have its own name.
func Replace(name string, mode fs.FileMode, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), Unfinished)
	if err != nil {
		return named(err, name)
	}
	err = write(to{f, name})
	if err = errors.Join(err, named(f.Chmod(mode), name), named(f.Sync(), name), named(f.Close(), name)); err == nil {
		if err = os.Rename(f.Name(), name); err != nil {
			err = &fs.PathError{Op: "write", Path: name, Err: errors.Unwrap(err)} // of *os.LinkError
		}
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// to writes a file that is to have another name.
type to struct {
	f    *os.File
	name string
}

func (t to) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	return n, named(err, t.name)
}

// named is an error of a file by the name that it is to have.
func named(err error, name string) error {
	if p, is := err.(*fs.PathError); is {
		return &fs.PathError{Op: p.Op, Path: name, Err: p.Err}
	}
	return err
}

// WriteFile is Replace for what is in memory.
func WriteFile(name string, b []byte, mode fs.FileMode) error {
	return Replace(name, mode, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}
