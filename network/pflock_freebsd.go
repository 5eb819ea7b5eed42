package network

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pfLock is held by the daemon whose rules are in the anchor.
const pfLock = "/var/run/freejail-pf.lock"

// anchorLock keeps two daemons of a host, of two state directories, from replacing each other's rules.
type anchorLock struct{ file *os.File }

// take returns errNoFilter where another daemon has the anchor.
func (l *anchorLock) take() error {
	if l.file != nil {
		return nil
	}
	f, err := os.OpenFile(pfLock, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("pf: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w for this daemon: another one on this host has the anchor %s of pf (%s): "+
			"one of them alone can have networks of mode nat", errNoFilter, pfAnchor, pfLock)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	return nil
}

// leave lets go of the anchor, which is empty.
func (l *anchorLock) leave() error {
	f := l.file
	l.file = nil
	return f.Close()
}
