// Package inherit hands listening sockets over to the program that is executed in this one's place, so that nobody
// who connects meanwhile is turned away.
package inherit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pass runs what executes another program, with an environment in which a variable has the number of a descriptor of
// the socket. It returns only when that failed.
func Pass(env []string, variable string, socket syscall.Conn, replace func(env []string) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("listening socket: %w", err)
	}
	var fd int
	var derr error
	err = raw.Control(func(from uintptr) { fd, derr = unix.FcntlInt(from, unix.F_DUPFD, 3) }) // without close-on-exec
	if err = errors.Join(err, derr); err != nil {
		return fmt.Errorf("listening socket: %w", err)
	}
	defer unix.Close(fd)
	return replace(append(env, variable+"="+strconv.Itoa(fd)))
}

// Listener is the socket that the program before has left to this one; nil where there is none. Programs that this one
// starts do not have the variable.
func Listener(variable string) (net.Listener, error) {
	text := os.Getenv(variable)
	if text == "" {
		return nil, nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("%s=%d: %w", variable, fd, err)
	}
	return l, nil
}
