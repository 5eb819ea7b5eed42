package unpack

import (
	"archive/tar"
	"errors"
	"os"
	"strings"
	"syscall"
	"unsafe"

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

func frozen(st *unix.Stat_t) bool { return st.Flags&forbidding != 0 }

// melt takes the flags that forbid a change off a file, and returns what it had.
func melt(fd int, st *unix.Stat_t) (old int, err error) {
	if !frozen(st) {
		return 0, nil
	}
	old = int(st.Flags)
	return old, chflags(fd, old&^forbidding)
}

func chflags(fd, flags int) error {
	return os.NewSyscallError("fchflags", syscall.Fchflags(fd, flags))
}

func setTimes(fd int, ts *[2]unix.Timespec) error {
	if _, _, errno := unix.Syscall(unix.SYS_FUTIMENS, uintptr(fd), uintptr(unsafe.Pointer(ts)), 0); errno != 0 {
		return errno
	}
	return nil
}

// setFlags passes over flags that the file system has not: tmpfs and UFS know
// them all, ZFS only some.
func setFlags(fd, flags int) error {
	err := chflags(fd, flags)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = chflags(fd, flags&onZFS)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
