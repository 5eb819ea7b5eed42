package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// envoy is a child of ours that goes into the jail which owns a stack, for what only a process inside can do: it
// opens sockets of the stack and hands them out, or ends the stack's connections. It has the
// descriptor of one socket, runs no program, and ends. All that it needs is made ready before.
type envoy struct {
	jid     int
	out     int
	open    []socketKind // sockets to hand out
	message unix.Msghdr
	drop    *dropping

	status [2]uint32 // step and errno
	iov    unix.Iovec
	rights [64]byte
}

type socketKind struct{ domain, kind uintptr }

// The child's steps.
const (
	stepFiles = iota + 1
	stepAttach
	stepSocket
	stepConnections
)

var stepNames = [...]string{"", "descriptors", "jail_attach", "socket", "connections"}

// msgCmsgCloexec is MSG_CMSG_CLOEXEC of sys/socket.h.
const msgCmsgCloexec = 0x40000

// inside opens sockets in the stack of a jail. Whoever holds one keeps the jail's stack.
func inside(jid int, withIPv6 bool) (sockets, error) {
	e := &envoy{jid: jid, open: []socketKind{{unix.AF_INET, unix.SOCK_DGRAM}, {unix.AF_ROUTE, unix.SOCK_RAW}}}
	if withIPv6 {
		e.open = append(e.open, socketKind{unix.AF_INET6, unix.SOCK_DGRAM})
	}
	fds, err := e.send()
	if err != nil {
		return sockets{}, err
	}
	s := sockets{inet: fds[0], route: fds[1], inet6: -1}
	if withIPv6 {
		s.inet6 = fds[2]
	}
	return s, nil
}

// send forks the child and reads what it says.
func (e *envoy) send() (fds []int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	e.out = pair[1]
	e.prepare()
	child, err := e.fork()
	_ = unix.Close(pair[1]) // the child has its own
	if err != nil {
		return nil, err
	}
	defer reap(child)
	status, rights := make([]byte, unsafe.Sizeof(e.status)), make([]byte, len(e.rights))
	n, got, err := receiveRights(pair[0], status, rights)
	if err != nil || n < len(status) {
		return nil, fmt.Errorf("the child in jail %d has ended without a word: %w", e.jid, cmpError(err))
	}
	if fds, err = descriptors(rights[:got]); err != nil {
		return nil, err
	}
	errno := syscall.Errno(binary.NativeEndian.Uint32(status[4:]))
	if errno != 0 {
		return nil, fmt.Errorf("in jail %d: %s: %w", e.jid, stepNames[binary.NativeEndian.Uint32(status)], errno)
	}
	if len(fds) != len(e.open) {
		return nil, fmt.Errorf("in jail %d: %d sockets came out of %d", e.jid, len(fds), len(e.open))
	}
	return fds, nil
}

func cmpError(err error) error {
	if err == nil {
		return errors.New("end of file")
	}
	return err
}

// fork uses pdfork(2): the child is no concern of those who wait for children.
func (e *envoy) fork() (child int, err error) {
	var descriptor int32
	const cloexec = 0x2 // PD_CLOEXEC of sys/procdesc.h
	_, errno := bsd.Fork(unix.SYS_PDFORK, uintptr(unsafe.Pointer(&descriptor)), cloexec, e)
	runtime.KeepAlive(e)
	if errno != 0 {
		return 0, fmt.Errorf("fork: %w", errno)
	}
	return int(descriptor), nil
}

// reap waits for the end of a child and forgets it.
func reap(child int) {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(child), Events: unix.POLLHUP}}, -1)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Close(child) // a descriptor of a process has nothing to lose
}

func receiveRights(fd int, status, rights []byte) (n, got int, err error) {
	for {
		n, got, _, _, err = unix.Recvmsg(fd, status, rights, msgCmsgCloexec|unix.MSG_WAITALL)
		if !errors.Is(err, unix.EINTR) {
			return n, got, err
		}
	}
}

func descriptors(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	return unix.ParseUnixRights(&messages[0])
}

// prepare makes the message that hands out the sockets: in the child they are 1, 2 and so on.
func (e *envoy) prepare() {
	e.iov = unix.Iovec{Base: (*byte)(unsafe.Pointer(&e.status))}
	e.iov.SetLen(int(unsafe.Sizeof(e.status)))
	e.message = unix.Msghdr{Iov: &e.iov, Iovlen: 1}
	var numbers []int
	for i := range e.open {
		numbers = append(numbers, i+1)
	}
	if len(numbers) > 0 {
		n := copy(e.rights[:], unix.UnixRights(numbers...))
		e.message.Control, e.message.Controllen = &e.rights[0], uint32(n)
	}
}

// Run is the child.
//
//go:norace
//go:nosplit
func (e *envoy) Run() {
	step, errno := e.enter()
	for i := 0; errno == 0 && i < len(e.open); i++ {
		step = stepSocket
		_, _, errno = syscall.RawSyscall(syscall.SYS_SOCKET, e.open[i].domain, e.open[i].kind, 0)
	}
	if errno == 0 && e.drop != nil {
		step = stepConnections
		errno = e.drop.run()
	}
	e.status = [2]uint32{uint32(step), uint32(errno)}
	if errno != 0 {
		e.message.Controllen = 0
	}
	syscall.RawSyscall(syscall.SYS_SENDMSG, 0, uintptr(unsafe.Pointer(&e.message)), 0)
}

// enter attaches with one descriptor: jail_attach(2) refuses a process that has a directory open.
//
//go:norace
//go:nosplit
func (e *envoy) enter() (step int, errno syscall.Errno) {
	if _, _, errno = syscall.RawSyscall(syscall.SYS_DUP2, uintptr(e.out), 0, 0); errno != 0 {
		return stepFiles, errno
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 1, math.MaxUint32, 0); errno != 0 {
		return stepFiles, errno
	}
	_, _, errno = syscall.RawSyscall(syscall.SYS_JAIL_ATTACH, uintptr(e.jid), 0, 0)
	bsd.Forked()
	return stepAttach, errno
}
