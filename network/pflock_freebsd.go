package network

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// pfLock is held by the daemon whose rules are in the anchor, and has its process and state directory in it.
const pfLock = "/var/run/freejail-pf.lock"

// anchorLock keeps two daemons of a host, of two state directories, from replacing each other's rules.
type anchorLock struct {
	path, stateDir string
	file           *os.File
}

// take returns errNoFilter where another daemon has the anchor.
func (l *anchorLock) take() error {
	if l.file != nil {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("pf: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		_, err = l.taken(f)
	} else if err == nil {
		err = errors.Join(f.Truncate(0), write(f, fmt.Sprintf("%d %s\n", os.Getpid(), l.stateDir)))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file = f
	return nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// taken is the error of a lock that another daemon has, and tells whether that is the one of this state directory.
func (l *anchorLock) taken(f *os.File) (own bool, err error) {
	who, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err != nil {
		return false, fmt.Errorf("pf: %w", err)
	}
	pid, dir, _ := strings.Cut(strings.TrimSpace(string(who)), " ")
	return dir == l.stateDir, fmt.Errorf("%w for this daemon: another one on this host, process %s with the state "+
		"directory %s, has the anchor %s of pf, and one of them alone can have networks of mode nat: stop it, or "+
		"leave these networks out of one of the two configurations", errNoFilter, pid, dir, pfAnchor)
}

// free tells whether take would do, and takes nothing: not even for a moment, in which another could fail.
func (l *anchorLock) free() error {
	if l.file != nil {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pf: %w", err)
	}
	held := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &held); err == nil && held.Type != unix.F_UNLCK {
		var own bool
		if own, err = l.taken(f); own { // who asks is not the daemon, as doctor without one
			err = nil
		}
	}
	return errors.Join(err, f.Close())
}

// leave lets go of the anchor, which is empty.
func (l *anchorLock) leave() error {
	f := l.file
	l.file = nil
	return f.Close()
}
