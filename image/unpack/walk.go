package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxDepth = 256  // keeps what removes a tree later from running out of files
	maxSteps = 2048 // of names looked up for one path
	maxLinks = 40
)

// All paths of a layer together may take as many steps as these, and as many more
// for each entry, so that links through links cannot take the time that large
// images need. A step is a name looked up, some 2 microseconds. Where there are
// many entries most are near the one before, and take one or two.
const (
	baseSteps   = 20_000
	entrySteps  = 32
	manyEntries = 100_000
	manySteps   = 8 // for each entry beyond those
)

func stepLimit(entries int64) int64 {
	few := min(entries, manyEntries)
	return baseSteps + entrySteps*few + manySteps*(entries-few)
}

// step counts n of them.
func (t *tree) step(n int) error {
	limit := stepLimit(t.budget.entries)
	if t.steps += int64(n); t.steps > limit {
		return fmt.Errorf("it leads over too many symbolic links and directories: more than %d steps", limit)
	}
	return nil
}

var errNotDir = errors.New("not a directory")

// folder is an open directory of a tree.
type folder struct {
	fd   int
	path string // from the tree's root, without links; "." is that root
}

func (f *folder) join(base string) string { return path.Join(f.path, base) }

// walker goes about a tree. It opens one name at a time, always in a directory
// that is open and never through a link, so no link in the tree can lead out.
// The directories on the way to where it is stay open: most entries are near
// the one before. Who removes a directory from the tree must see to it that no
// walker is in it.
type walker struct {
	tree  *tree
	stack []*folder // the first is the root
}

func (w *walker) top() *folder { return w.stack[len(w.stack)-1] }

// back leaves directories until n are open.
func (w *walker) back(n int) error {
	var err error
	for len(w.stack) > n {
		err = errors.Join(err, unix.Close(w.top().fd))
		w.stack = w.stack[:len(w.stack)-1]
	}
	return err
}

// leave goes back to where a path goes on from, and returns the rest of it.
func (w *walker) leave(dir string) (rest string, err error) {
	for len(w.stack) > 1 && err == nil {
		if p := w.top().path; dir == p || strings.HasPrefix(dir, p) && dir[len(p)] == '/' {
			return dir[len(p):], nil
		}
		err = w.back(len(w.stack) - 1)
	}
	return dir, err
}

// open goes to a directory, which stays open until the next call. Links are
// followed if that is wanted, within the tree, where an absolute one means the
// tree's root; missing directories are made on demand.
func (w *walker) open(dir string, create, follow bool) (*folder, error) {
	rest, err := w.leave(dir)
	if err != nil {
		return nil, err
	}
	links := 0
	for steps := 0; rest != ""; steps++ {
		name, more, _ := strings.Cut(rest, "/")
		rest = more
		switch name {
		case "", ".":
			continue
		case "..":
			if err := w.back(max(len(w.stack)-1, 1)); err != nil {
				return nil, err
			}
			continue
		}
		target, err := w.enter(name, create)
		if err == nil && steps > maxSteps {
			err = fmt.Errorf("%s: the path has too many names", name)
		}
		if err != nil {
			return nil, err
		}
		if target == "" {
			continue
		}
		if !follow {
			return nil, errNotDir
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: too many symbolic links", name)
		}
		if path.IsAbs(target) {
			if err := w.back(1); err != nil {
				return nil, err
			}
		}
		rest = target + "/" + rest
	}
	return w.top(), nil
}

// enter goes into a directory, or gives the link's target.
func (w *walker) enter(name string, create bool) (target string, err error) {
	if err := w.tree.step(1); err != nil {
		return "", err
	}
	if len(w.stack) > maxDepth {
		return "", fmt.Errorf("directories are more than %d deep", maxDepth)
	}
	top := w.top()
	fd, err := openDirAt(top.fd, name)
	if errors.Is(err, fs.ErrNotExist) && create {
		fd, err = w.tree.implied(top, name)
	}
	if notDirectory(err) {
		target, err = readlinkAt(top.fd, name)
		switch {
		case errors.Is(err, unix.EINVAL):
			err = &fs.PathError{Op: "open", Path: name, Err: errNotDir}
		case err == nil && target == "": // FreeBSD has such links
			err = &fs.PathError{Op: "open", Path: name, Err: unix.ENOENT}
		}
		return target, err
	}
	if err != nil {
		return "", err
	}
	w.stack = append(w.stack, &folder{fd, top.join(name)})
	return "", nil
}

// notDirectory knows what open(2) with O_NOFOLLOW and O_DIRECTORY says about
// links and files: EMLINK is FreeBSD's.
func notDirectory(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK)
}

// lookup finds an entry, its own last place not followed.
func (w *walker) lookup(name string) (f *folder, base string, st unix.Stat_t, err error) {
	dir, base := path.Split(name)
	if f, err = w.open(dir, false, true); err != nil {
		return nil, "", st, err
	}
	if base == "" {
		base = "."
	}
	return f, base, st, statAt(f.fd, base, &st)
}

// The calls below take a name in an open directory, never a path.

func openAt(fd int, name string, flags int) (int, error) {
	for {
		n, err := unix.Openat(fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func openDirAt(fd int, name string) (int, error) {
	return openAt(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

func statAt(fd int, name string, st *unix.Stat_t) error {
	if err := unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return nil
}

func readlinkAt(fd int, name string) (string, error) {
	b := make([]byte, maxName+1)
	n, err := unix.Readlinkat(fd, name, b)
	if err == nil && n == len(b) {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(b[:n]), nil
}

func isType(st *unix.Stat_t, kind uint32) bool { return uint32(st.Mode)&unix.S_IFMT == kind }
