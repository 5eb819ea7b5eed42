package network

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// userOf is whose socket on this host is the client's end of what has come to a server's: tcp_getcred and others of
// netinet/tcp_subr.c and udp_usrreq.c take the addresses of that end, its own first.
func userOf(protocol string, client, server netip.AddrPort) (uint32, error) {
	name := "net.inet." + protocol + ".getcred"
	if client.Addr().Is6() {
		name = "net.inet6." + protocol + "6.getcred"
	}
	text, err := unix.ByteSliceFromString(name)
	if err != nil {
		return 0, err
	}
	ends := append(sockaddrOf(client), sockaddrOf(server)...)
	var found unix.Xucred
	size := unsafe.Sizeof(found)
	_, _, errno := unix.Syscall6(unix.SYS___SYSCTLBYNAME, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)-1),
		uintptr(unsafe.Pointer(&found)), uintptr(unsafe.Pointer(&size)), uintptr(unsafe.Pointer(&ends[0])),
		uintptr(len(ends)))
	if errno != 0 {
		return 0, errno
	}
	return found.Uid, nil
}

// sockaddrOf is a struct sockaddr_in or sockaddr_in6, without a scope.
func sockaddrOf(a netip.AddrPort) []byte {
	if a.Addr().Is4() {
		b := binary.BigEndian.AppendUint16([]byte{sizeSockaddr4, inet}, a.Port())
		return append(append(b, a.Addr().AsSlice()...), make([]byte, 8)...)
	}
	b := binary.BigEndian.AppendUint16([]byte{sizeSockaddr6, inet6}, a.Port())
	b = append(b, 0, 0, 0, 0)
	return append(append(b, a.Addr().WithZone("").AsSlice()...), 0, 0, 0, 0)
}
