package mount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Identity tells a file or directory from all others. nullfs shows its own
// device number in place of the source's, but everything else as it is.
type Identity struct {
	ino, gen uint64
	birth    unix.Timespec
}

func identity(st *unix.Stat_t) Identity { return Identity{st.Ino, st.Gen, st.Btim} }

// landed makes sure that the target's path led to the target: the kernel
// follows links in it.
func landed(m Mount) error {
	var st unix.Statfs_t
	if err := unix.Statfs(m.Target, &st); err != nil {
		return errors.Join(err, Unmount(m.Target))
	}
	on, from := unix.ByteSliceToString(st.Mntonname[:]), unix.ByteSliceToString(st.Mntfromname[:])
	if on == m.Target {
		return nil
	}
	err := fmt.Errorf("the target was exchanged while it was being mounted: it led to %s", on)
	if from == m.Source && unix.ByteSliceToString(st.Fstypename[:]) == m.Type {
		err = errors.Join(err, Unmount(on))
	}
	return err
}
