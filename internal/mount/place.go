package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// Nothing here goes by a path that somebody else can change: directories are
// opened one by one, links are read and walked by hand, and what is mounted, and
// where, is what was opened.

// Root is an opened directory in which file systems are to be mounted.
type Root struct {
	dir   *os.File
	path  string
	alone *alone // nil where others may change what is in it
}

// Alone tells that nobody can change what is in the root before all is mounted, as that of a task whose processes are
// still to come: where the system mounts on paths alone, it goes by them in the root's own file system.
func (r *Root) Alone() (err error) {
	r.alone, err = newAlone(r.dir)
	return err
}

// OpenRoot opens a root. Its path must be nobody else's to change.
func OpenRoot(path string) (*Root, error) {
	f, err := openAt(unix.AT_FDCWD, path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &Root{dir: f, path: path}, nil
}

// Close lets go of the root. Points of it stay open.
func (r *Root) Close() error { return r.dir.Close() }

// Point is an opened directory or file that something is to be mounted on.
type Point struct {
	file  *os.File
	path  string // as it was walked to
	alone *alone // its root's
}

// Close lets go of the point.
func (p *Point) Close() error { return p.file.Close() }

// File is what is opened: a place, which cannot be read from.
func (p *Point) File() *os.File { return p.file }

// Path is where the point was when it was opened.
func (p *Point) Path() string { return p.path }

// Itself is the root as a point, which is closed with it.
func (r *Root) Itself() *Point { return &Point{file: r.dir, path: r.path, alone: r.alone} }

// Dir opens the directory that target, a path within the root, means, and makes
// it where it is missing. A link that leads out of the root, or is absolute,
// and anything but a directory is refused.
func (r *Root) Dir(target string) (*Point, error) { return r.point(target, walker{make: true}) }

// File is Dir for a regular file to be mounted over.
func (r *Root) File(target string) (*Point, error) {
	return r.point(target, walker{make: true, file: true})
}

// Inside is Dir for a directory as a process in the root would find it: what an
// absolute link names is within the root, and nothing is above it.
func (r *Root) Inside(target string) (*Point, error) {
	return r.point(target, walker{make: true, inside: true})
}

// FileInside is Inside for a regular file that is there.
func (r *Root) FileInside(target string) (*Point, error) {
	return r.point(target, walker{file: true, inside: true})
}

func (r *Root) point(target string, w walker) (*Point, error) {
	rel := strings.TrimPrefix(path.Clean("/"+target), "/")
	if rel == "" {
		return nil, fmt.Errorf("%q is the root itself, which cannot be mounted over", target)
	}
	f, real, err := w.walk(r.dir, rel)
	if err == nil && real == "" {
		err = errors.Join(errors.New("it leads to the root itself"), f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("mount point %s: %w", target, err)
	}
	return &Point{file: f, path: filepath.Join(r.path, real), alone: r.alone}, nil
}

// OpenIn opens what rel names within a directory, of any kind, and tells where
// it really is there, "" for the directory itself. The descriptor is one for a
// place only: it cannot be read from. No link leads out of the directory, and
// nothing blocks.
func OpenIn(dir *os.File, rel string) (*os.File, string, error) {
	w := walker{any: true}
	return w.walk(dir, strings.TrimPrefix(path.Clean("/"+rel), "/"))
}

// OpenInside is OpenIn as a process with that root would find it; see Root.Inside.
func OpenInside(root *os.File, rel string) (*os.File, string, error) {
	w := walker{any: true, inside: true}
	return w.walk(root, strings.TrimPrefix(path.Clean("/"+rel), "/"))
}

// Deepest splits a path within a directory into what is there, really and without
// links, and what is not. A link to nothing counts for what it names.
func Deepest(dir *os.File, name string) (have, lacks string, err error) {
	return deepest(dir, name, walker{any: true})
}

// DeepestInside is Deepest as a process with that root would find it; see Root.Inside.
func DeepestInside(root *os.File, name string) (have, lacks string, err error) {
	return deepest(root, name, walker{any: true, inside: true})
}

func deepest(dir *os.File, name string, w walker) (have, lacks string, err error) {
	f, have, err := w.walk(dir, strings.TrimPrefix(path.Clean("/"+name), "/"))
	if err == nil {
		return have, "", f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) || slices.Contains(w.todo, "..") {
		return "", "", err
	}
	return path.Join(w.names...), path.Join(append([]string{w.missing}, w.todo...)...), nil
}

// OpenPath opens what a clean absolute path names, of any kind, as OpenIn does.
// A path with a symbolic link in it is refused: a decision about the path is one
// about what was opened.
func OpenPath(name string) (*os.File, error) {
	if !filepath.IsAbs(name) || filepath.Clean(name) != name {
		return nil, fmt.Errorf("%q is not a clean absolute path", name)
	}
	root, err := openAt(unix.AT_FDCWD, "/", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	w := walker{any: true, noLinks: true}
	f, _, err := w.walk(root, strings.TrimPrefix(name, "/"))
	return f, errors.Join(err, root.Close())
}

// ErrOut means that a path is not within the root, or the directory, that it
// should be in.
var ErrOut = errors.New("out of the root")

// maxLinks is how many links a path may lead over, as in the kernels.
const maxLinks = 40

// maxSteps bounds the names that all links of a path add up to, and maxDepth how
// many directories are open at once.
const (
	maxSteps = 512
	maxDepth = 256
)

// walker goes down a path by descriptors.
type walker struct {
	make    bool // what is missing
	file    bool // the last is a regular file, not a directory
	any     bool // the last is of any kind but a link
	noLinks bool
	inside  bool // the start is the root of what walks

	stack        []*os.File // from below the start to where it is
	names        []string
	todo         []string
	missing      string // what was not there
	links, steps int
}

// walk opens rel below start and returns its real path below it, without links.
func (w *walker) walk(start *os.File, rel string) (f *os.File, real string, err error) {
	defer func() {
		for _, f := range w.stack {
			err = errors.Join(err, f.Close())
		}
	}()
	w.push(rel)
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		if err := w.step(start, name); err != nil {
			return nil, "", err
		}
	}
	if len(w.stack) == 0 {
		f, err = openAt(int(start.Fd()), ".", unix.O_DIRECTORY)
		return f, "", err
	}
	last := len(w.stack) - 1
	f, w.stack = w.stack[last], w.stack[:last]
	return f, path.Join(w.names...), nil
}

// push has the names of a path walked next.
func (w *walker) push(rel string) {
	var names []string
	for _, n := range strings.Split(rel, "/") {
		if n != "" && n != "." {
			names = append(names, n)
		}
	}
	w.todo = append(names, w.todo...)
}

func (w *walker) step(start *os.File, name string) error {
	if w.steps++; w.steps > maxSteps {
		return errors.New("too long with its symbolic links resolved")
	}
	if name == ".." {
		if len(w.stack) == 0 && w.inside {
			return nil
		}
		if len(w.stack) == 0 {
			return fmt.Errorf("a symbolic link leads %w", ErrOut)
		}
		last := len(w.stack) - 1
		err := w.stack[last].Close()
		w.stack, w.names = w.stack[:last], w.names[:last]
		return err
	}
	at := start
	if n := len(w.stack); n >= maxDepth {
		return fmt.Errorf("it is more than %d directories deep", maxDepth)
	} else if n > 0 {
		at = w.stack[n-1]
	}
	f, err := w.open(at, name)
	if err == nil && f != nil {
		w.stack, w.names = append(w.stack, f), append(w.names, name)
	}
	return err
}

// open opens a name, or has the link that it is walked and returns nil.
func (w *walker) open(at *os.File, name string) (*os.File, error) {
	dir := len(w.todo) > 0 || !w.any && !w.file
	for range 100 { // somebody may make and remove it meanwhile
		f, err := w.openOnce(at, name, dir)
		switch {
		case !w.make && errors.Is(err, fs.ErrNotExist):
			w.missing = name
			return nil, err
		case errors.Is(err, fs.ErrNotExist):
			if err := create(int(at.Fd()), name, dir); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, &fs.PathError{Op: "create", Path: w.at(name), Err: err}
			}
		case errors.Is(err, errLink):
			to, err := readlink(int(at.Fd()), name)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
				continue // no more
			}
			if err != nil {
				return nil, &fs.PathError{Op: "readlink", Path: w.at(name), Err: err}
			}
			return nil, w.follow(name, to)
		default:
			return f, err
		}
	}
	return nil, fmt.Errorf("%s changes all the time", w.at(name))
}

var errLink = errors.New("it is a symbolic link")

// openOnce opens a name that is what it should be.
func (w *walker) openOnce(at *os.File, name string, dir bool) (*os.File, error) {
	if err := bsd.CheckNames(int(at.Fd())); err != nil {
		return nil, fmt.Errorf("%s: %w", w.at(name), err)
	}
	f, err := openAt(int(at.Fd()), name, 0)
	if err != nil {
		var e *fs.PathError
		if errors.As(err, &e) {
			e.Path = w.at(name)
		}
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil {
		switch kind := uint32(st.Mode) & unix.S_IFMT; {
		case kind == unix.S_IFLNK:
			err = errLink
		case dir && kind != unix.S_IFDIR:
			err = fmt.Errorf("%s is not a directory", w.at(name))
		case !dir && w.file && kind != unix.S_IFREG:
			err = fmt.Errorf("%s is not a regular file", w.at(name))
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (w *walker) follow(name, to string) error {
	switch {
	case w.noLinks:
		return fmt.Errorf("%s is a symbolic link", w.at(name))
	case path.IsAbs(to) && !w.inside:
		return fmt.Errorf("%s is a symbolic link to %q, which leads %w", w.at(name), to, ErrOut)
	}
	if w.links++; w.links > maxLinks {
		return errors.New("too many symbolic links")
	}
	w.push(to)
	if path.IsAbs(to) {
		return w.restart()
	}
	return nil
}

// restart goes back to the start.
func (w *walker) restart() error {
	var errs []error
	for _, f := range w.stack {
		errs = append(errs, f.Close())
	}
	w.stack, w.names = nil, nil
	return errors.Join(errs...)
}

func (w *walker) at(name string) string { return "/" + path.Join(path.Join(w.names...), name) }

// openAt opens a place: neither a link nor a FIFO nor a device is followed or
// waited for.
func openAt(dir int, name string, flags int) (*os.File, error) {
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(dir, name, flags|oPath|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func retryEINTR(do func() (int, error)) (n int, err error) {
	for n, err = do(); err == unix.EINTR; n, err = do() {
	}
	return n, err
}

func readlink(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

func create(at int, name string, dir bool) error {
	if dir {
		if err := unix.Mkdirat(at, name, dirMode); err != nil {
			return err
		}
		return setMode(at, name)
	}
	fd, err := unix.Openat(at, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fchmod(fd, 0o644), unix.Close(fd)) // whatever the umask is
}

// dirMode is that of a directory that is made, whatever the umask is.
const dirMode = 0o755

// setMode gives a directory that was just made its mode where the umask has kept it
// from that. Another in its place, which has something in it, is left as it is.
func setMode(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // it is only looked at
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() == dirMode {
		return err
	}
	if _, err := f.Readdirnames(1); err != io.EOF {
		return err
	}
	return f.Chmod(dirMode)
}
