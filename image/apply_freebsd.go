package image

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// File flags of sys/stat.h.
const (
	ufNodump    = 0x1
	ufImmutable = 0x2
	ufAppend    = 0x4
	ufOpaque    = 0x8
	ufNounlink  = 0x10
	sfArchived  = 0x10000
	sfImmutable = 0x20000
	sfAppend    = 0x40000
	sfNounlink  = 0x100000

	onZFS      = ufNodump | sfImmutable | sfAppend | sfNounlink
	forbidding = ufImmutable | ufAppend | ufNounlink | sfImmutable | sfAppend | sfNounlink
)

// fflags are strtofflags(3)'s names. Those that other systems' archives have,
// or that say nothing about access, are not among them and are passed over.
var fflags = map[string]int{
	"nodump": ufNodump, "opaque": ufOpaque, "arch": sfArchived, "archived": sfArchived,
	"uchg": ufImmutable, "uchange": ufImmutable, "uimmutable": ufImmutable,
	"uappnd": ufAppend, "uappend": ufAppend, "uunlnk": ufNounlink, "uunlink": ufNounlink,
	"schg": sfImmutable, "schange": sfImmutable, "simmutable": sfImmutable,
	"sappnd": sfAppend, "sappend": sfAppend, "sunlnk": sfNounlink, "sunlink": sfNounlink,
}

func flagsOf(h *tar.Header) int {
	flags := 0
	for name := range strings.SplitSeq(h.PAXRecords["SCHILY.fflags"], ",") {
		flags |= fflags[name]
	}
	return flags
}

func currentFlags(fi fs.FileInfo) int {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return int(st.Flags)
}

func frozen(fi fs.FileInfo) bool { return currentFlags(fi)&forbidding != 0 }

// melt takes the flags that forbid a change off a file, and returns what it had.
func melt(f *os.File, fi fs.FileInfo) (old int, err error) {
	if !frozen(fi) {
		return 0, nil
	}
	old = currentFlags(fi)
	return old, chflags(f, old&^forbidding)
}

func chflags(f *os.File, flags int) error {
	if err := syscall.Fchflags(int(f.Fd()), flags); err != nil {
		return &fs.PathError{Op: "chflags", Path: f.Name(), Err: err}
	}
	return nil
}

// setFlags passes over flags that the file system has not: tmpfs and UFS know
// them all, ZFS only some.
func setFlags(f *os.File, flags int) error {
	err := chflags(f, flags)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = chflags(f, flags&onZFS)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// removeAll clears the flags that forbid it.
func removeAll(root *os.Root, name string) error {
	first := root.RemoveAll(name)
	if first == nil {
		return nil
	}
	err := fs.WalkDir(root.FS(), name, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() && !e.IsDir() {
			return err
		}
		return thawForRemoval(root, p)
	})
	if err != nil {
		return errors.Join(first, err)
	}
	return root.RemoveAll(name)
}

// thawForRemoval removes a frozen file at once if it has other names: the
// flags are theirs too and come back.
func thawForRemoval(root *os.Root, name string) (err error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	old, err := melt(f, fi)
	if err != nil || old == 0 || fi.IsDir() || fi.Sys().(*syscall.Stat_t).Nlink < 2 {
		return err
	}
	return errors.Join(root.Remove(name), chflags(f, old))
}
