package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// afNetlink is AF_NETLINK of sys/socket.h; its protocol 0 is NETLINK_ROUTE.
const afNetlink = 38

// links makes interfaces. By netlink(4) one is made and described at once: whatever happens to this
// process, there is none of freejail's that does not say so.
type links struct {
	mu  sync.Mutex
	fd  int // 0 until it is needed: it has a thread of the kernel
	seq uint32
}

// create makes an interface of a kind, and loads the kernel's module for it.
func (l *links) create(kind, name, description string) error {
	err := l.try(kind, name, description)
	if errors.Is(err, unix.EINVAL) { // no such kind
		if lerr := bsd.LoadModule("if_" + kind); lerr != nil {
			return fmt.Errorf("%w (load it before securelevel is raised: sysrc kld_list+=if_%s)", lerr, kind)
		}
		err = l.try(kind, name, description)
	}
	if err != nil {
		return fmt.Errorf("create interface %s: %w", name, err)
	}
	return nil
}

func (l *links) try(kind, name, description string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd == 0 {
		fd, err := unix.Socket(afNetlink, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("netlink socket: %w", err)
		}
		l.fd = fd
	}
	l.seq++
	if _, err := unix.Write(l.fd, newLink(l.seq, kind, name, description)); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	return l.answer()
}

// answer is the errno of the message's struct nlmsgerr.
func (l *links) answer() error {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(l.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		if n < nlHeader+4 || binary.NativeEndian.Uint16(b[4:]) != nlError {
			return errors.New("netlink: the kernel's answer is of another form: freejail must be built for it")
		}
		if binary.NativeEndian.Uint32(b[8:]) != l.seq {
			continue // of a message whose answer nobody read
		}
		if errno := int32(binary.NativeEndian.Uint32(b[nlHeader:])); errno != 0 {
			return unix.Errno(errno)
		}
		return nil
	}
}
