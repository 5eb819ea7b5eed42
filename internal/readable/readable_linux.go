package readable

import (
	"errors"

	"golang.org/x/sys/unix"
)

func open() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) }

// arm asks for one event.
func arm(queue, fd int) error {
	e := &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}
	err := unix.EpollCtl(queue, unix.EPOLL_CTL_MOD, fd, e)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EpollCtl(queue, unix.EPOLL_CTL_ADD, fd, e)
	}
	return err
}

func disarm(queue, fd int) { _ = unix.EpollCtl(queue, unix.EPOLL_CTL_DEL, fd, nil) } // it may not be there

// wait calls ready with each descriptor that has an event.
func wait(queue int, ready func(fd int)) error {
	events := make([]unix.EpollEvent, 64)
	n, err := unix.EpollWait(queue, events, -1)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	for _, e := range events[:max(0, n)] {
		ready(int(e.Fd))
	}
	return err
}
