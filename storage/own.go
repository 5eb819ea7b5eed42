package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
)

// File is a file that a task has instead of the image's, whatever that is: a link, a
// directory or a device too.
type File struct {
	Path string // in the root, a name in a directory below / such as /etc/hosts
	Text []byte
}

// Every task has its own of these; see Options.Own.
const (
	ResolverFile = "/etc/resolv.conf"
	HostsFile    = "/etc/hosts"
)

// makeOwnPoints makes empty files in a tree that has an /etc without them: a root that is
// read-only would need a skeleton of it at each start.
func makeOwnPoints(tree string) (err error) {
	top, err := openDir(tree)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	if !isDir(top, "etc") {
		return nil
	}
	etc, err := openAt(top, "etc", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, etc.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(etc.Fd()), &st); err != nil {
		return err
	}
	for _, f := range []string{ResolverFile, HostsFile} {
		err := File{Path: f}.create(etc)
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrPermission) { // by a flag of etc
			return err
		}
	}
	return unix.UtimesNanoAt(int(top.Fd()), "etc", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// furnish makes the task's files, and the volumes that the image lacks, in a root that
// can be written to. Nothing is mounted in it yet, and no process runs there.
func (o Options) furnish(ctx context.Context, root string) error {
	r, err := mount.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := makeAll(ctx, r, o.volumePoints()); err != nil {
		return err
	}
	for _, f := range o.Own {
		if err := f.write(r); err != nil {
			return err
		}
	}
	return nil
}

// furnishWritable is furnish for what is writable of a root, where the directories are.
func (o Options) furnishWritable(r *mount.Root) error {
	for _, f := range o.Own {
		if err := f.write(r); err != nil && !errors.Is(err, unix.EROFS) {
			return err
		}
	}
	return nil
}

func (f File) write(root *mount.Root) error {
	dir, err := f.dir(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := remove.At(dir, path.Base(f.Path)); err != nil {
		return err
	}
	return f.create(dir)
}

// create makes the file in its opened directory, where nothing has its name.
func (f File) create(dir *os.File) error {
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), path.Base(f.Path), flags, 0o644)
	if err != nil {
		return &fs.PathError{Op: "create", Path: f.Path, Err: err}
	}
	w := os.NewFile(uintptr(fd), f.Path)
	_, err = w.Write(f.Text)
	return errors.Join(err, w.Chown(0, 0), w.Chmod(0o644), w.Close())
}

// dir opens the file's directory. What is in its place and leads to none is replaced.
func (f File) dir(root *mount.Root) (*os.File, error) {
	name := path.Dir(f.Path)
	at, err := root.Inside(name)
	if err != nil && !isDir(root.Itself().File(), path.Base(name)) {
		if err := remove.At(root.Itself().File(), path.Base(name)); err != nil {
			return nil, err
		}
		at, err = root.Inside(name)
	}
	if err != nil {
		return nil, err
	}
	dir, err := openAt(at.File(), ".", unix.O_DIRECTORY)
	return dir, errors.Join(err, at.Close())
}

func isDir(dir *os.File, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// lack tells where in a tree there has to be a skeleton for the file to be mounted over
// a regular one of that name and no other.
func (f File) lack(tree *os.File) (have string, p point, lacks bool, err error) {
	name := path.Base(f.Path)
	dir, have, err := mount.OpenInside(tree, path.Dir(f.Path))
	if err == nil {
		var st unix.Stat_t
		err = errors.Join(unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW), dir.Close())
		switch {
		case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1:
			return have, p, false, nil
		case err == nil:
			return have, point{path: name, file: true, replaces: name}, true, nil
		case errors.Is(err, fs.ErrNotExist):
			return have, point{path: name, file: true}, true, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if have, lacks, err := mount.DeepestInside(tree, path.Dir(f.Path)); err == nil {
			return have, point{path: path.Join(lacks, name), file: true}, true, nil
		}
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ESTALE) { // of a server
		return "", p, false, err
	}
	return "", point{path: f.Path[1:], file: true, replaces: path.Base(path.Dir(f.Path))}, true, nil
}
