package storage

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// systemFlags are SF_IMMUTABLE, SF_APPEND and SF_NOUNLINK of sys/stat.h.
const systemFlags = 0x20000 | 0x40000 | 0x100000

// setFlags sets the file flags that a copy does not have by itself. Where the
// host's securelevel would keep it from being removed (ufs_setattr in
// sys/ufs/ufs/ufs_vnops.c) it goes without those of the system's.
func setFlags(path string, st *unix.Stat_t) error {
	const zfsArchive = 0x800 // UF_ARCHIVE, which file systems set as they like
	flags := st.Flags &^ zfsArchive
	if bsd.SecureLevel() > 0 {
		flags &^= systemFlags
	}
	if flags == 0 || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	err := unix.Chflags(path, int(flags))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
