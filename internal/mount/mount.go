// Package mount mounts and unmounts file systems by system call, and resolves
// mount points without leaving a root.
package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Mount is one file system to be mounted. Type is FreeBSD's name (nullfs,
// devfs, tmpfs, fdescfs, procfs, linprocfs, linsysfs, unionfs, nfs) or
// Linux's; nullfs is a bind mount there. Options are nmount(2)'s: "ro",
// "ruleset=7", "size=1048576", "mode=1777"; Binary are those that are no text.
type Mount struct {
	Type, Source, Target string
	Options              []string
	Binary               map[string][]byte
}

// Info is one mounted file system.
type Info struct {
	Type, Source, Target string
	id                   string // by which the kernel finds it; FreeBSD without its path
}

// Error says which mount failed, with the kernel's own message where it gave
// one.
type Error struct {
	Op, Type, Source, Target, Message string
	Err                               error
}

func (e *Error) Error() string {
	s := e.Op
	if e.Type != "" {
		s += " " + e.Type
	}
	if e.Source != "" && e.Source != e.Type {
		s += " " + e.Source
	}
	s += " on " + e.Target + ": "
	if e.Message != "" {
		s += e.Message + ": "
	}
	return s + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Unmount unmounts what is mounted on target, the newest if there are several.
// Nothing there is no error.
func Unmount(target string) error {
	return retry(target, func() error { return unmount(target) })
}

func retry(target string, unmount func() error) error {
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		err = unmount()
		if err == nil || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(wait) // the last process of the jail may still let go
	}
	return &Error{Op: "unmount", Target: target, Err: err}
}

// Below lists the mounts at dir and below it, the newest first.
func Below(dir string) ([]Info, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, m := range all {
		if m.Target == dir || strings.HasPrefix(m.Target, dir+"/") {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	return out, nil
}

// UnmountUnder unmounts everything at dir and below it. Nothing mounted is no
// error. No path is looked up on FreeBSD: one that leads over a server which is
// away would not end.
func UnmountUnder(dir string) error { return unmountAll(dir, true, false) }

// UnmountBelow unmounts everything below dir, but not dir itself.
func UnmountBelow(dir string) error { return unmountAll(dir, false, false) }

// ForceUnder is UnmountUnder, whoever uses what is there.
func ForceUnder(dir string) error { return unmountAll(dir, true, true) }

// ForceBelow is UnmountBelow, whoever uses what is there.
func ForceBelow(dir string) error { return unmountAll(dir, false, true) }

func unmountAll(dir string, itself, force bool) error {
	if dir == "" || dir == "/" {
		return fmt.Errorf("unmount: refusing to unmount below %q", dir)
	}
	list, err := Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range list {
		if m.Target == dir && !itself {
			continue
		}
		errs = append(errs, retry(m.Target, func() error { return m.unmount(force) }))
	}
	return errors.Join(errs...)
}

// Resolve finds the directory of a root that target, a path within it, means,
// and makes it where it is missing. A link that leads out of the root, or is
// absolute, and anything but a directory is refused.
func Resolve(root, target string) (string, error) { return resolve(root, target, true) }

// ResolveFile is Resolve for a file to be mounted over.
func ResolveFile(root, target string) (string, error) { return resolve(root, target, false) }

func resolve(root, target string, dir bool) (string, error) {
	rel := strings.TrimPrefix(path.Clean("/"+target), "/")
	if rel == "" {
		return "", fmt.Errorf("%q is the root itself, which cannot be mounted over", target)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	real, err := walk(r, rel, dir)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", target, err)
	}
	return filepath.Join(root, real), nil
}

// walk follows rel link by link, so that the path it returns has no link left:
// mount(2) would follow one on the host.
func walk(r *os.Root, rel string, dir bool) (string, error) {
	done, links := "", 0
	todo := strings.Split(rel, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		next := path.Join(done, name)
		if next == ".." || strings.HasPrefix(next, "../") {
			return "", errors.New("a symbolic link leads out of the root")
		}
		fi, err := r.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := create(r, next, dir || len(todo) > 0); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case fi.Mode()&fs.ModeSymlink != 0:
			if links++; links > 40 {
				return "", errors.New("too many symbolic links")
			}
			to, err := r.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(to) {
				return "", fmt.Errorf("/%s is a symbolic link to %s, which could be the host's", next, to)
			}
			todo = append(strings.Split(path.Clean(to), "/"), todo...)
			continue
		case (dir || len(todo) > 0) && !fi.IsDir():
			return "", fmt.Errorf("/%s is not a directory", next)
		case !dir && len(todo) == 0 && !fi.Mode().IsRegular():
			return "", fmt.Errorf("/%s is not a regular file", next)
		}
		done = next
	}
	if done == "" || done == "." {
		return "", errors.New("it leads to the root itself")
	}
	return done, nil
}

func create(r *os.Root, name string, dir bool) error {
	if dir {
		return r.Mkdir(name, 0o755)
	}
	f, err := r.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
