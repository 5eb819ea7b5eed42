// Package treecopy copies files into and out of a tree that others change meanwhile, as a tar archive.
//
// Nothing is followed by its path: what a path means is looked up as a process with that root would find it, one
// directory at a time, and below what was found no link is followed. Neither FIFOs nor devices are opened, nor is
// anything of a file system that shows the process which looks at it, such as fdescfs(4).
package treecopy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// What one copy may have, beside its bytes.
const (
	maxEntries = 1_000_000
	maxDepth   = 256      // directories, each of which is open
	maxNames   = 64 << 20 // bytes of the names of one sort that are kept meanwhile
)

// names are how many bytes of names are kept.
type names int

// add is false where there is no room for a name any more.
func (n *names) add(name string) bool {
	if int(*n)+len(name) > maxNames {
		return false
	}
	*n += names(len(name))
	return true
}

// Options of a copy.
type Options struct {
	// MaxBytes bounds the content of all files together.
	MaxBytes int64
	// Owners keeps owners, and the set-user-id and set-group-id bits.
	Owners bool
	// Own has what is received belong to root where owners are not kept, instead of to who receives it.
	Own bool
	// Problem is told what was left out, or is not as it was: its path and why. Nil is nobody.
	Problem func(name, why string)
	// Mounted are the file systems that processes of the tree see at directories of it, and who copies does not: of
	// them nothing is copied. They are by the paths of the directories.
	Mounted map[string]string
}

// mounted finds the directories of Mounted.
func (o Options) mounted(root *os.File) map[file]string {
	found := map[file]string{}
	for name, fs := range o.Mounted {
		if f, real, err := mount.OpenInside(root, name); err == nil {
			if st, err := stat(f); err == nil && "/"+real == name {
				found[file{uint64(st.Dev), uint64(st.Ino)}] = fs
			}
			_ = f.Close() // nothing was written
		}
	}
	return found
}

// file is one of a host.
type file struct{ dev, ino uint64 }

// missing is a path at which nothing is, and a directory is needed where dir is true.
type missing struct {
	path string
	dir  bool
}

func (m *missing) Error() string {
	if m.dir {
		return fmt.Sprintf("there is no directory %s: make it, or name another one", m.path)
	}
	return "there is no " + m.path
}

func (m *missing) Unwrap() error { return fs.ErrNotExist }

// orMissing tells of what is not there by its path.
func orMissing(err error, path string, dir bool) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &missing{path, dir}
	}
	return err
}

func (o Options) problem(name, why string) {
	if o.Problem != nil {
		o.Problem(name, why)
	}
}

// Source is what is copied into a tree.
type Source struct {
	// Name is what it is called where it came from; empty for an archive of somebody's own, whose entries go
	// below the destination as they are. Else the first name of each entry is that of the copy.
	Name string
	// Contents tells that what a directory has is meant, not itself.
	Contents bool

	dir bool // as the first entry tells
}

// Names tells how a path is meant: contents is one that ends in "/.", and dir one that ends in a slash.
func Names(name string) (clean string, dir, contents bool) {
	contents = strings.HasSuffix(name, "/.") || name == "."
	return path.Clean("/" + name), contents || strings.HasSuffix(name, "/"), contents
}

// place is where a copy goes: the entries are made below an open directory, the first of them under a name, or
// as what the directory is where that is empty.
type place struct {
	base *os.File
	name string
}

// find finds the place as docker cp and cp -R do: what is copied to a directory that is there goes into it.
func find(root *os.File, dst string, src Source) (place, error) {
	clean, dir, _ := Names(dst)
	f, real, err := mount.OpenInside(root, clean)
	switch {
	case errors.Is(err, fs.ErrNotExist) && src.Name != "" && (src.dir || !dir):
		base, _, err := mount.OpenInside(root, path.Dir(clean))
		if err == nil {
			err = isDir(base, path.Dir(clean))
		}
		return place{base, path.Base(clean)}, orMissing(err, path.Dir(clean), true)
	case err != nil:
		return place{}, orMissing(err, clean, true)
	}
	switch is := isDir(f, clean); {
	case is == nil && (src.Contents || src.Name == ""):
		return place{f, ""}, nil
	case is == nil:
		return place{f, src.Name}, nil
	case src.Name == "" || src.dir || dir:
		return place{}, errors.Join(is, f.Close())
	}
	base, _, err := mount.OpenInside(root, path.Dir(real))
	return place{base, path.Base(real)}, errors.Join(err, f.Close())
}

func isDir(f *os.File, name string) error {
	st, err := stat(f)
	if err == nil && kind(st) != unix.S_IFDIR {
		err = &fs.PathError{Op: "copy to", Path: name, Err: unix.ENOTDIR}
	}
	return err
}

func stat(f *os.File) (*unix.Stat_t, error) {
	var st unix.Stat_t
	return &st, unix.Fstat(int(f.Fd()), &st)
}

func kind(st *unix.Stat_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

// kindText is what is neither a file nor a directory nor a link.
func kindText(st *unix.Stat_t) string {
	switch kind(st) {
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return fmt.Sprintf("of the unknown type %#o", kind(st))
}

// openPlace opens a name in a directory as a place: it is not followed, and nothing of it is opened.
func openPlace(dir *os.File, name string, flags int) (*os.File, error) {
	return openAt(dir, name, flags|oPath|unix.O_NOFOLLOW)
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0o600)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case err != unix.EINTR:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// errSpecial tells of a file system that shows the process which looks at it, or acts when it is read.
type errSpecial string

func (e errSpecial) Error() string {
	return fmt.Sprintf("it is on %s, of which nothing is copied", string(e))
}

// checkPlain refuses what lies on another file system than its directory, if that is a special one or one that is not
// seen.
func checkPlain(f *os.File, st *unix.Stat_t, dev uint64, mounted map[file]string) error {
	if name := mounted[file{uint64(st.Dev), uint64(st.Ino)}]; name != "" {
		return errSpecial(name)
	}
	if uint64(st.Dev) == dev { //nolint:unconvert // it is signed on other systems
		return nil
	}
	name, err := special(f)
	if err == nil && name != "" {
		err = errSpecial(name)
	}
	return err
}
