package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// oPath is O_PATH of sys/fcntl.h.
const oPath = 0x00400000

// Descriptors is a directory in which the kernel finds what this process has
// open: an fdescfs that is mounted with nodup, so that a name in it leads to the
// very vnode (fdesc_get_ino_alloc in sys/fs/fdescfs/fdesc_vnops.c). nmount(2)
// takes paths only.
//
// It is mounted no longer than it is used: an rm -r that came by would find its
// own descriptors there, and go on where they lead.
//
// A directory's mount has the path in the mount table that it really has; a
// file's has the one in here (vn_path_to_global_path_hardlink in
// sys/kern/vfs_cache.c).
type Descriptors struct {
	dir   string
	mu    sync.Mutex
	users int
	at    Info
}

// OpenDescriptors makes the directory. What an earlier process has left there is
// unmounted.
func OpenDescriptors(dir string) (*Descriptors, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(dir) // as the kernel will tell it
	if err != nil {
		return nil, err
	}
	d := &Descriptors{dir: dir}
	if d.at, err = At(dir); err == nil && d.at.Target == dir && d.at.Type == "fdescfs" {
		err = d.at.Unmount(true)
	}
	return d, err
}

// Close removes the directory. What was mounted with it stays.
func (d *Descriptors) Close() error { return os.Remove(d.dir) }

// Use has it mounted until release is called, for more than one mount.
func (d *Descriptors) Use() (release func() error, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users == 0 {
		if err := d.mount(); err != nil {
			return nil, err
		}
	}
	d.users++
	return d.release, nil
}

func (d *Descriptors) mount() error {
	if err := nmount(Mount{Type: "fdescfs", Target: d.dir, Options: []string{"nodup"}}); err != nil {
		return err
	}
	var err error
	if d.at, err = At(d.dir); err == nil && d.at.Target != d.dir {
		err = fmt.Errorf("%s: fdescfs is not where it was mounted", d.dir)
	}
	return err
}

func (d *Descriptors) release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users > 0 {
		return nil
	}
	return d.at.Unmount(true)
}

// Path leads to what is opened, while it is, and while this is in use; it may be
// opened anew by it.
func (d *Descriptors) Path(f *os.File) string {
	return filepath.Join(d.dir, strconv.Itoa(int(f.Fd())))
}

// alone are the file systems of a root in which nobody else can change a directory: its own, and those without a source
// that were mounted in it since.
type alone struct{ own []string }

// newAlone is nil where the kernel tells no numbers of mounts: all would be that of the root. That of 15.1 tells them.
func newAlone(root *os.File) (*alone, error) {
	at, err := in(root)
	if err != nil || at.id == (fsid{}).text() {
		return nil, err
	}
	return &alone{own: []string{at.id}}, nil
}

// in is the mount in which an opened place lies.
func in(f *os.File) (Info, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return Info{}, &fs.PathError{Op: "fstatfs", Path: f.Name(), Err: err}
	}
	return info(&st), nil
}

// mount mounts what has no source on a point by its path, if it lies in one of those file systems.
func (a *alone) mount(p *Point, m Mount) (done bool, err error) {
	if a == nil || m.From != nil || slices.Contains([]string{"nullfs", "unionfs", "nfs"}, m.Type) {
		return false, nil
	}
	before, err := in(p.file)
	if err != nil || !slices.Contains(a.own, before.id) {
		return false, err
	}
	m.Target = p.path
	if err := nmount(m); err != nil {
		return true, err
	}
	after, err := At(p.path)
	if err == nil && (after.Target != p.path || after.Type != m.Type) {
		err = &Error{Op: "mount", Type: m.Type, Target: p.path,
			Err: fmt.Errorf("%s is mounted in its place", after.Type)}
	}
	if err == nil {
		own.add(after)
		a.own = append(a.own, after.id)
	}
	return true, err
}

// On mounts a file system on an opened point; m.Target is not looked at.
func (d *Descriptors) On(p *Point, m Mount) error {
	if done, err := p.alone.mount(p, m); done || err != nil {
		return err
	}
	release, err := d.Use()
	if err != nil {
		return err
	}
	return errors.Join(d.on(p, m), release())
}

func (d *Descriptors) on(p *Point, m Mount) error {
	m.Target = d.Path(p.file)
	if m.From != nil {
		defer runtime.KeepAlive(m.From)
		m.Source = d.Path(m.From)
	}
	defer runtime.KeepAlive(p)
	before, err := d.mounted(p)
	if err == nil {
		err = d.cover(p, m)
	}
	var after Info
	if err == nil {
		after, err = d.mounted(p)
	}
	if err == nil && (after.id == before.id || after.Type != m.Type) {
		err = fmt.Errorf("%s is mounted in its place", after.Type)
	}
	if err != nil {
		return &Error{Op: "mount", Type: m.Type, Target: p.path, Err: err}
	}
	own.add(after)
	return nil
}

// cover mounts. nullfs cannot cover what shows the source already, as for a
// directory that is to be read-only in a tree that is not: there an empty tmpfs
// comes between.
func (d *Descriptors) cover(p *Point, m Mount) error {
	err := nmount(m)
	if m.Type != "nullfs" || !errors.Is(err, unix.EDEADLK) {
		return err
	}
	if between := nmount(Mount{Type: "tmpfs", Target: m.Target,
		Options: []string{"ro", "size=65536", "mode=755"}}); between != nil {
		return errors.Join(err, between)
	}
	between, err := d.mounted(p)
	if err == nil {
		err = nmount(m)
	}
	switch {
	case err == nil:
		own.add(between)
	case between.Type == "tmpfs":
		err = errors.Join(err, between.Unmount(false))
	}
	return err
}

// mounted is the newest mount on an opened point, or that in which it lies.
func (d *Descriptors) mounted(p *Point) (Info, error) { return At(d.Path(p.file)) }

// At is the mount that a path is on.
func At(path string) (Info, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Info{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return info(&st), nil
}
