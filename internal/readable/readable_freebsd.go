package readable

import (
	"errors"

	"golang.org/x/sys/unix"
)

func open() (int, error) {
	queue, err := unix.Kqueue() // which no child inherits
	if err == nil {
		unix.CloseOnExec(queue)
	}
	return queue, err
}

// arm asks for one event.
func arm(queue, fd int) error { return change(queue, fd, unix.EV_ADD|unix.EV_ONESHOT) }

func disarm(queue, fd int) { _ = change(queue, fd, unix.EV_DELETE) } // it may not be there

func change(queue, fd int, flags uint16) error {
	e := unix.Kevent_t{Ident: uint64(fd), Filter: unix.EVFILT_READ, Flags: flags}
	for {
		_, err := unix.Kevent(queue, []unix.Kevent_t{e}, nil, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wait calls ready with each descriptor that has an event.
func wait(queue int, ready func(fd int)) error {
	events := make([]unix.Kevent_t, 64)
	n, err := unix.Kevent(queue, nil, events, nil)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	for _, e := range events[:max(0, n)] {
		ready(int(e.Ident))
	}
	return err
}
