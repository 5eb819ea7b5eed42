package regular

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

const (
	maxWayLinks    = 8   // what os.Root follows
	maxRootedLinks = 40  // what Linux follows; FreeBSD takes 32
	maxWayDepth    = 255 // directories that are open at once
	maxWayNames    = 4096
)

var (
	errLinks = errors.New("too many symbolic links")
	errNames = fmt.Errorf("too many symbolic links and directories: more than %d steps", maxWayNames)
)

// errEscapes has the text of what os.Root says.
var errEscapes = errors.New("path escapes from parent")

// OpenWay is OpenIn that also tells of the directories which the file was opened
// through, from the root down to its own, without those of symbolic links: who
// can write to one of them may have put the file there.
func OpenWay(root *os.Root, name string) (f *os.File, fi fs.FileInfo, way []fs.FileInfo, err error) {
	top, err := root.Open(".")
	if err != nil {
		return nil, nil, nil, err
	}
	return (&wayfarer{dirs: []*os.File{top}, links: maxWayLinks}).file(name)
}

// OpenRooted opens a regular file as a process with that root would: an absolute
// link means the root, and nothing is above it.
func OpenRooted(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	top, err := root.Open(".")
	if err != nil {
		return nil, nil, err
	}
	f, fi, _, err := (&wayfarer{dirs: []*os.File{top}, links: maxRootedLinks, rooted: true}).file(name)
	return f, fi, err
}

// wayfarer goes one name at a time, each in the directory that is open, and never
// through a link.
type wayfarer struct {
	dirs   []*os.File
	links  int  // that may still be followed
	rooted bool // absolute links and .. stay in the root, instead of leading out
}

// file opens a file, and closes the directories.
func (w *wayfarer) file(name string) (f *os.File, fi fs.FileInfo, way []fs.FileInfo, err error) {
	defer func() {
		if cerr := w.back(0); cerr != nil && err == nil {
			f, err = nil, errors.Join(cerr, f.Close())
		}
	}()
	if f, err = w.open(name); err != nil {
		return nil, nil, nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if fi, way, err = w.look(f); err == nil {
		err = check(name, fi, false)
	}
	if err == nil {
		err = unix.SetNonblock(int(f.Fd()), false)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, way, nil
}

func (w *wayfarer) top() int { return int(w.dirs[len(w.dirs)-1].Fd()) }

// back leaves directories until n are open.
func (w *wayfarer) back(n int) (err error) {
	for len(w.dirs) > n {
		err = errors.Join(err, w.dirs[len(w.dirs)-1].Close())
		w.dirs = w.dirs[:len(w.dirs)-1]
	}
	return err
}

func (w *wayfarer) look(f *os.File) (fi fs.FileInfo, way []fs.FileInfo, err error) {
	for _, d := range append(slices.Clip(w.dirs), f) {
		if fi, err = d.Stat(); err != nil {
			return nil, nil, err
		}
		way = append(way, fi)
	}
	return fi, way[:len(way)-1], nil
}

func (w *wayfarer) open(name string) (*os.File, error) {
	todo := names(name)
	for n := 0; len(todo) > 0; n++ {
		if n == maxWayNames {
			return nil, errNames
		}
		next, rest := todo[0], todo[1:]
		f, link, err := w.step(next, len(rest) == 0)
		if f != nil || err != nil {
			return f, err
		}
		if link != "" {
			if w.links--; w.links < 0 {
				return nil, errLinks
			}
			rest = append(names(link), rest...)
		}
		todo = rest
	}
	return nil, notRegular(fs.ModeDir)
}

// names are those of a path, and "." behind a last one that has to be a directory.
func names(p string) []string {
	all := slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		all = append(all, ".")
	}
	return all
}

// step goes into a directory, or gives a link's target or the last name's file.
func (w *wayfarer) step(name string, last bool) (f *os.File, link string, err error) {
	switch {
	case name == ".":
		return nil, "", nil
	case name == "..":
		if len(w.dirs) == 1 && !w.rooted {
			return nil, "", errEscapes
		}
		return nil, "", w.back(max(len(w.dirs)-1, 1))
	}
	if err := bsd.CheckNames(w.top()); err != nil {
		return nil, "", err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(w.top(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, "", err
	}
	switch mode := typeOf(uint32(st.Mode)); {
	case mode == fs.ModeSymlink:
		link, err = w.readLink(name)
		if path.IsAbs(link) {
			err = w.toRoot()
		}
		return nil, link, err
	case mode.IsDir():
		return nil, "", w.enter(name)
	case !last:
		return nil, "", unix.ENOTDIR
	case !mode.IsRegular():
		return nil, "", notRegular(mode)
	}
	// Another file may have taken its place: this does not wait, and what was
	// opened decides.
	f, err = w.openAt(name, unix.O_NONBLOCK)
	return f, "", err
}

// toRoot follows the beginning of an absolute link.
func (w *wayfarer) toRoot() error {
	if !w.rooted {
		return errEscapes
	}
	return w.back(1)
}

func (w *wayfarer) enter(name string) error {
	if len(w.dirs) > maxWayDepth {
		return unix.ENAMETOOLONG
	}
	d, err := w.openAt(name, unix.O_DIRECTORY)
	if err == nil {
		w.dirs = append(w.dirs, d)
	}
	return err
}

func (w *wayfarer) openAt(name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(w.top(), name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
}

func (w *wayfarer) readLink(name string) (string, error) {
	b := make([]byte, 4097)
	n, err := unix.Readlinkat(w.top(), name, b)
	switch target := string(b[:max(n, 0)]); {
	case err != nil:
		return "", err
	case n == len(b):
		return "", unix.ENAMETOOLONG
	case target == "": // FreeBSD has such links
		return "", unix.ENOENT
	default:
		return target, nil
	}
}

func typeOf(mode uint32) fs.FileMode {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFIFO:
		return fs.ModeNamedPipe
	case unix.S_IFSOCK:
		return fs.ModeSocket
	case unix.S_IFCHR, unix.S_IFBLK:
		return fs.ModeDevice
	}
	return fs.ModeIrregular
}
