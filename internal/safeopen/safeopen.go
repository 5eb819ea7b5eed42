// Package safeopen opens what others may have put there. It never waits, as
// open(2) does for a FIFO's other end, and what is opened is what was expected.
package safeopen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const flags = os.O_RDONLY | syscall.O_NONBLOCK

// File opens a file or a directory for reading, and tells which. Anything else
// is an error.
func File(path string) (*os.File, fs.FileInfo, error) {
	return open(path, os.Stat, os.OpenFile)
}

// FileIn is File within a directory, out of which no link leads.
func FileIn(dir *os.Root, name string) (*os.File, fs.FileInfo, error) {
	return open(name, dir.Stat, dir.OpenFile)
}

func open(name string, stat func(string) (fs.FileInfo, error), openFile func(string, int, fs.FileMode) (*os.File, error)) (*os.File, fs.FileInfo, error) {
	// A device may do something as soon as it is opened.
	fi, err := stat(name)
	if err == nil {
		err = expect(name, fi)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := openFile(name, flags, 0)
	if err != nil {
		return nil, nil, err
	}
	if fi, err = f.Stat(); err == nil {
		err = expect(name, fi)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

func expect(name string, fi fs.FileInfo) error {
	if fi.Mode().IsRegular() || fi.IsDir() {
		return nil
	}
	return &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("it is %s, not a regular file or a directory", kind(fi.Mode()))}
}

func kind(m fs.FileMode) string {
	switch m.Type() {
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// Root opens a directory, as [os.OpenRoot] does, which waits for a FIFO.
func Root(path string) (*os.Root, error) {
	if path == "" {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return os.OpenRoot(path + "/.") // only a directory has that
}
