package storage

import (
	"errors"

	"golang.org/x/sys/unix"
)

// setFlags sets the file flags that a copy does not have by itself.
func setFlags(path string, st *unix.Stat_t) error {
	const zfsArchive = 0x800 // UF_ARCHIVE, which file systems set as they like
	flags := st.Flags &^ zfsArchive
	if flags == 0 || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	err := unix.Chflags(path, int(flags))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
