package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func copyRange(from, to *os.File, n int) (int, error) {
	const sysCopyFileRange = 569 // of sys/syscall.h
	got, _, errno := unix.Syscall6(sysCopyFileRange, from.Fd(), 0, to.Fd(), 0, uintptr(n), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// watched does something and has kqueue tell of it.
func watched(name string, do func() error) (err error) {
	kq, err := unix.Kqueue()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(kq)) }()
	return with(name, os.O_RDONLY, func(f *os.File) error {
		ev := []unix.Kevent_t{{Ident: uint64(f.Fd()), Filter: unix.EVFILT_VNODE, Flags: unix.EV_ADD | unix.EV_CLEAR,
			Fflags: unix.NOTE_WRITE | unix.NOTE_EXTEND}}
		if _, err := unix.Kevent(kq, ev, nil, nil); err != nil {
			return err
		}
		err := do()
		n, err2 := unix.Kevent(kq, nil, ev, &unix.Timespec{})
		return errors.Join(err, err2, want(n == 1, "not seen"))
	})
}

func fileFlags() error {
	err := unix.Chflags("file", immutable)
	_, frozen := open("file", os.O_WRONLY)
	return errors.Join(err, fails(frozen, unix.EPERM), unix.Chflags("file", 0), os.WriteFile("file", nil, 0o600))
}
