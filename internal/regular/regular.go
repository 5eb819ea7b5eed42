// Package regular opens files that somebody else may have put there. It never
// waits, as open(2) of a FIFO does, and opens no device, which might do
// something.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Open opens a regular file for reading. Links in its path are followed.
func Open(name string) (*os.File, fs.FileInfo, error) {
	return open(name, false, os.Stat, os.OpenFile)
}

// OpenIn is Open within a root, which no link leads out of.
func OpenIn(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	return open(name, false, root.Stat, root.OpenFile)
}

// ReadIn reads a file within a root; one of more than limit bytes is an error.
func ReadIn(root *os.Root, name string, limit int64) ([]byte, error) {
	f, _, err := OpenIn(root, name)
	if err != nil {
		return nil, err
	}
	b, err := Read(f, name, limit)
	return b, errors.Join(err, f.Close())
}

// Read reads all that there is; more than limit bytes are an error. The name is
// for it.
func Read(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// OpenAny is Open for a regular file or a directory.
func OpenAny(name string) (*os.File, fs.FileInfo, error) {
	return open(name, true, os.Stat, os.OpenFile)
}

// Root opens a directory, as [os.OpenRoot] does, which waits for a FIFO.
func Root(name string) (*os.Root, error) {
	if name == "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return os.OpenRoot(name + "/.") // only a directory has that
}

func open(name string, orDir bool, stat func(string) (fs.FileInfo, error),
	openFile func(string, int, fs.FileMode) (*os.File, error)) (*os.File, fs.FileInfo, error) {
	fi, err := stat(name)
	if err == nil {
		err = check(name, fi, orDir)
	}
	if err != nil {
		return nil, nil, err
	}
	// Another file may have taken its place: this does not wait, and what was
	// opened decides.
	f, err := openFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if fi, err = f.Stat(); err == nil {
		err = check(name, fi, orDir)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// CheckOutput refuses what a file that is written to a path would replace without need: a
// link, a device, a FIFO or a socket, and, unless orDir, a directory.
func CheckOutput(name string, orDir bool) error {
	name = filepath.Clean(name)
	fi, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || fi.Mode().IsRegular() || orDir && fi.IsDir():
		return err
	case fi.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("the output %s is %s, not a regular file: give another name", name, kind(fi.Mode()))
	}
	to, err := os.Readlink(name)
	return errors.Join(err, fmt.Errorf("the output %s is a link to %s, and would be replaced: "+
		"give the name of the file itself, or another one", name, to))
}

// Within tells whether a file at a path lies below a directory, whatever links lead there.
// Directories of the path may be missing.
func Within(name string, dir fs.FileInfo) (bool, error) {
	at, err := filepath.Abs(name)
	if err != nil {
		return false, err
	}
	at = filepath.Dir(at)
	real, err := filepath.EvalSymlinks(at)
	for errors.Is(err, fs.ErrNotExist) && at != "/" {
		at = filepath.Dir(at)
		real, err = filepath.EvalSymlinks(at)
	}
	for ; err == nil; real = filepath.Dir(real) {
		var fi fs.FileInfo
		if fi, err = os.Stat(real); err == nil && os.SameFile(fi, dir) {
			return true, nil
		}
		if real == "/" {
			break
		}
	}
	return false, err
}

func check(name string, fi fs.FileInfo, orDir bool) error {
	if fi.Mode().IsRegular() || orDir && fi.IsDir() {
		return nil
	}
	return &fs.PathError{Op: "open", Path: name, Err: notRegular(fi.Mode())}
}

func notRegular(m fs.FileMode) error { return fmt.Errorf("it is %s, not a regular file", kind(m)) }

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "no file"
}
