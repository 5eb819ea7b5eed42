package driver

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// oldest is FreeBSD 14.0, as __FreeBSD_version of sys/param.h counts.
const oldest = 1400000

// supported tells why no task can ever start with this kernel.
func supported() error {
	release, err := unix.SysctlUint32("kern.osreldate")
	if err == nil && release < oldest {
		err = fmt.Errorf("freejail needs FreeBSD 14 or newer, and this kernel is of version %d", release)
	}
	return err
}
