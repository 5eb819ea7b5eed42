package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Identify finds what a path names, and refuses a path with a symbolic link in
// it: a decision about the path is then one about this file or directory.
func Identify(path string) (Identity, error) {
	var id Identity
	err := inParent(path, func(dir int, name string) error {
		var st unix.Stat_t
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			err = errors.New("it is a symbolic link")
		}
		id = identity(&st)
		return err
	})
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// inParent opens the directories of a clean absolute path one by one, so that
// no link is followed.
func inParent(path string, do func(dir int, name string) error) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return errors.New("not a clean absolute path")
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	names := strings.Split(path[1:], "/")
	dir, err := unix.Open("/", flags, 0)
	if err != nil {
		return err
	}
	for _, name := range names[:len(names)-1] {
		next, err := unix.Openat(dir, name, flags, 0)
		if err = errors.Join(err, unix.Close(dir)); err != nil {
			return err
		}
		dir = next
	}
	last := names[len(names)-1]
	if last == "" {
		last = "."
	}
	return errors.Join(do(dir, last), unix.Close(dir))
}

// DoSame mounts, and makes sure that nobody has changed a path meanwhile: what
// is seen at the target is source, as Identify found it, and the mount is where
// it should be. Otherwise it is unmounted again.
func DoSame(m Mount, source Identity) error {
	if err := Do(m); err != nil {
		return err
	}
	err := landed(m)
	if err == nil {
		var got Identity
		if got, err = Identify(m.Target); err == nil && got != source {
			err = errors.New("the source was exchanged while it was being mounted")
		}
		if err != nil {
			err = errors.Join(err, Unmount(m.Target))
		}
	}
	if err != nil {
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Err: err}
	}
	return nil
}
