package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/internal/remove"
)

// unionfs copies a file to the upper directory when its owner, mode or times are
// to change, but no link: EROFS (unionfs_setattr of sys/fs/unionfs/union_vnops.c),
// at which a chown -R ends. So the upper directory of a root begins with copies of
// the image's links, in directories as unionfs itself would make them: with the
// owner, mode and times of the image's, and not opaque.

const (
	// maxLinks are the links that a root begins with. One costs some microseconds
	// at the start, and at the end UFS writes each to the disk. FreeBSD's base
	// system has 600 to 1,500.
	maxLinks = 4096
	// maxLinkDepth is how many directories are open at once; what lies deeper in an
	// image is passed over.
	maxLinkDepth = 64
)

// attributes are those that a copy has of the image's.
type attributes struct {
	Mode     uint32
	UID, GID uint32
	Times    [2]unix.Timespec // of access, of change
}

// folder is a directory of a chain that has links, in it or below.
type folder struct {
	attributes
	Name    string   `json:",omitempty"`
	Links   []link   `json:",omitempty"`
	Folders []folder `json:",omitempty"`
}

type link struct {
	attributes
	Name, To string
}

func attributesOf(st *unix.Stat_t) attributes {
	return attributes{uint32(st.Mode) & 0o7777, st.Uid, st.Gid, [2]unix.Timespec{st.Atim, st.Mtim}}
}

// linksOf are the links of a chain, which is gone through once: what it has is
// kept beside it.
func (d *dirs) linksOf(ctx context.Context, chain string) (folder, error) {
	name := d.path("links", chain)
	top, err := readLinks(name)
	if err == nil {
		return top, nil
	}
	if !errors.Is(err, fs.ErrNotExist) { // a crash of the host can leave anything there
		if err := remove.Tree(name); err != nil {
			return top, err
		}
	}
	dir, err := openDir(d.path("chains", chain))
	if err != nil {
		return top, err
	}
	l := &linkList{ctx: ctx}
	top, err = l.folder(dir, 0)
	if err = errors.Join(err, dir.Close()); err != nil {
		return top, err
	}
	if l.n > maxLinks {
		top.Links, top.Folders = nil, nil
	}
	return top, keepLinks(name, top)
}

// maxLinkList is more than the longest names and targets of all links need.
const maxLinkList = 16 << 20

func readLinks(name string) (top folder, err error) {
	f, _, err := regular.Open(name)
	if err != nil {
		return top, err
	}
	b, err := regular.Read(f, name, maxLinkList)
	if err = errors.Join(err, f.Close()); err == nil {
		err = json.Unmarshal(b, &top)
	}
	return top, err
}

func keepLinks(name string, top folder) error {
	b, err := json.Marshal(top)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.WriteFile(name, b, 0o600)
}

// linkList goes through a chain.
type linkList struct {
	ctx context.Context
	n   int
}

func (l *linkList) folder(dir *os.File, depth int) (folder, error) {
	var f folder
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return f, &fs.PathError{Op: "fstat", Path: dir.Name(), Err: err}
	}
	f.attributes = attributesOf(&st)
	for l.n <= maxLinks {
		entries, err := dir.ReadDir(1024)
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err = errors.Join(err, l.ctx.Err()); err != nil {
			return f, err
		}
		for _, e := range entries {
			if err := l.entry(&f, dir, e, depth); err != nil {
				return f, fmt.Errorf("%s: %w", e.Name(), err)
			}
		}
	}
	return f, nil
}

func (l *linkList) entry(f *folder, dir *os.File, e fs.DirEntry, depth int) error {
	if e.IsDir() && depth < maxLinkDepth {
		sub, err := openAt(dir, e.Name(), unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		below, err := l.folder(sub, depth+1)
		if below.Name = e.Name(); below.Links != nil || below.Folders != nil {
			f.Folders = append(f.Folders, below)
		}
		return errors.Join(err, sub.Close())
	}
	if e.Type() != fs.ModeSymlink {
		return nil
	}
	l.n++
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	to, err := readLink(dir, e.Name())
	f.Links = append(f.Links, link{attributesOf(&st), e.Name(), to})
	return err
}

// make makes a directory with all that is in the list. Links that are as they
// should be in an old directory, or nil, are moved.
func (f *folder) make(ctx context.Context, old, in *os.File, name string) error {
	if err := unix.Mkdirat(int(in.Fd()), name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	dir, err := openAt(in, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(f.fill(ctx, old, dir), dir.Close())
}

func (f *folder) fill(ctx context.Context, old, dir *os.File) error {
	var like *attributes // of a link that was just made, but for its times
	for i := range f.Links {
		if l := &f.Links[i]; old == nil || !l.move(old, dir) {
			if err := l.make(dir, &like); err != nil {
				return &fs.PathError{Op: "copy", Path: l.Name, Err: err}
			}
		}
	}
	for i := range f.Folders {
		if err := errors.Join(ctx.Err(), f.Folders[i].below(ctx, old, dir)); err != nil {
			return err
		}
	}
	err := errors.Join(dir.Chown(int(f.UID), int(f.GID)), unix.Fchmod(int(dir.Fd()), f.Mode))
	return errors.Join(err, unix.UtimesNanoAt(int(dir.Fd()), ".", f.Times[:], 0))
}

func (f *folder) below(ctx context.Context, old, dir *os.File) error {
	if old == nil {
		return f.make(ctx, nil, dir, f.Name)
	}
	sub, err := openAt(old, f.Name, unix.O_DIRECTORY)
	if err != nil { // a task may have anything there
		return f.make(ctx, nil, dir, f.Name)
	}
	return errors.Join(f.make(ctx, sub, dir, f.Name), sub.Close())
}

// move takes a link from where a task had it, if it is as the image's.
func (l *link) move(old, dir *os.File) bool {
	var st unix.Stat_t
	if unix.Fstatat(int(old.Fd()), l.Name, &st,
		unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	a := attributesOf(&st)
	a.Times[0] = l.Times[0] // to read a link changes it
	// what has attributes beside these has blocks
	if a != l.attributes || st.Nlink != 1 || st.Flags != 0 || st.Blocks != 0 {
		return false
	}
	to, err := readLink(old, l.Name)
	return err == nil && to == l.To && unix.Renameat(int(old.Fd()), l.Name, int(dir.Fd()), l.Name) == nil
}

// make makes a link, which takes from a directory and the process what like says
// as soon as it is known.
func (l *link) make(dir *os.File, like **attributes) error {
	fd := int(dir.Fd())
	if err := unix.Symlinkat(l.To, fd, l.Name); err != nil {
		return err
	}
	if *like == nil {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, l.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		a := attributesOf(&st)
		*like = &a
	}
	made := *like
	if l.UID != made.UID || l.GID != made.GID {
		if err := unix.Fchownat(fd, l.Name, int(l.UID), int(l.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if l.Mode != made.Mode {
		if err := unix.Fchmodat(fd, l.Name, l.Mode, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd, l.Name, l.Times[:], unix.AT_SYMLINK_NOFOLLOW)
}
