package bsd

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Param is a name and value of nmount(2), jail_set(2) or jail_get(2). A buffer
// that the kernel fills is a value too; nil is none.
type Param struct {
	Name  string
	Value []byte
}

// Text is a parameter whose value is a string.
func Text(name, value string) Param { return Param{name, append([]byte(value), 0)} }

// messageSize is room for the kernel's reasons.
const messageSize = 1024

// Call runs one of these system calls and returns its result: jail_set(2) and
// jail_get(2) have a jail's id. The kernel's own words, if any, come with the errno.
func Call(trap uintptr, params []Param, flags int) (result int, message string, err error) {
	words := make([]byte, messageSize)
	iov := make([]unix.Iovec, 0, 2*len(params)+2)
	add := func(p Param) { iov = append(iov, iovec(Text("", p.Name).Value), iovec(p.Value)) }
	for _, p := range params {
		add(p)
	}
	add(Param{"errmsg", words})
	r, _, errno := unix.Syscall(trap, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(flags))
	runtime.KeepAlive(params)
	if errno != 0 {
		return 0, unix.ByteSliceToString(words), errno
	}
	return int(r), "", nil
}

func iovec(b []byte) unix.Iovec {
	if len(b) == 0 {
		return unix.Iovec{}
	}
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
