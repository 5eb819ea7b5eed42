package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fflags are strtofflags(3)'s names for the flags that travel in archives;
// values of sys/stat.h.
var fflags = map[string]int{
	"nodump": 0x1, "uchg": 0x2, "uimmutable": 0x2, "uappnd": 0x4, "uappend": 0x4, "opaque": 0x8, "uunlnk": 0x10, "uunlink": 0x10,
	"uarch": 0x800, "arch": 0x10000, "schg": 0x20000, "simmutable": 0x20000, "sappnd": 0x40000, "sappend": 0x40000, "sunlnk": 0x100000, "sunlink": 0x100000,
}

func setFlags(f *os.File, h *tar.Header) error {
	text := h.PAXRecords["SCHILY.fflags"]
	if text == "" {
		return nil
	}
	flags := 0
	for name := range strings.SplitSeq(text, ",") {
		v, ok := fflags[name]
		if !ok {
			return fmt.Errorf("the file flag %q is not known", name)
		}
		flags |= v
	}
	err := syscall.Fchflags(int(f.Fd()), flags)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the file system has no such flags
	}
	return err
}

// removeAll clears the flags that forbid it.
func removeAll(root *os.Root, name string) error {
	if err := root.RemoveAll(name); err == nil {
		return nil
	}
	err := fs.WalkDir(root.FS(), path.Clean(name), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() && !e.IsDir() {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(syscall.Fchflags(int(f.Fd()), 0), f.Close())
	})
	return errors.Join(err, root.RemoveAll(name))
}
