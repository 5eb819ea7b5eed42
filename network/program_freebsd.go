package network

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// Offsets of struct xinpcb of netinet/in_pcb.h, of struct xsocket of sys/socketvar.h, which is in it and tells its own
// size, of struct in_conninfo, which follows that, and of struct xfile of sys/file.h.
const (
	inpSocketAt                = 8
	socketSoAt, socketFamilyAt = 8, 100
	connFPortAt, connLPortAt   = 4, 6
	connLAddrAt, connSize      = 24, 44

	filePIDAt, fileUIDAt, fileDataAt, fileSize = 8, 12, 56, 72
)

// programAt finds a socket in the kernel's list, as sockstat(1) does, and then the process that has it open.
func programAt(p bound) (listener, bool) {
	list, err := unix.SysctlRaw("net.inet." + p.protocol + ".pcblist")
	if err != nil {
		return listener{}, false
	}
	inner := 0
	if p.protocol == "tcp" {
		inner = 8 // struct xtcpcb of netinet/tcp_var.h has it after its own length
	}
	for _, one := range records(list)[1:] { // the first is struct xinpgen
		if len(one) < inner || !p.isAt(one[inner:]) {
			continue
		}
		if who, ok := processOf(binary.NativeEndian.Uint64(one[inner+inpSocketAt+socketSoAt:])); ok {
			return who, true
		}
	}
	return listener{}, false
}

// records are structs that begin with their lengths.
func records(b []byte) (out [][]byte) {
	for len(b) >= 8 {
		n := binary.NativeEndian.Uint64(b)
		if n < 8 || n > uint64(len(b)) {
			break
		}
		out, b = append(out, b[:n]), b[n:]
	}
	if out == nil {
		out = [][]byte{nil}
	}
	return out
}

// isAt tells whether a struct xinpcb is of a socket that is in the way of a place and has no other end.
func (p bound) isAt(inp []byte) bool {
	if len(inp) < inpSocketAt+socketFamilyAt+4 {
		return false
	}
	socket := inp[inpSocketAt:]
	size := binary.NativeEndian.Uint64(socket)
	if size < socketFamilyAt+4 || size+connSize > uint64(len(socket)) {
		return false
	}
	conn := socket[size:]
	port := binary.BigEndian.Uint16(conn[connLPortAt:])
	if binary.BigEndian.Uint16(conn[connFPortAt:]) != 0 {
		return false
	}
	a := netip.AddrFrom16([16]byte(conn[connLAddrAt:]))
	if binary.NativeEndian.Uint32(socket[socketFamilyAt:]) == inet {
		a = netip.AddrFrom4([4]byte(conn[connLAddrAt+12:]))
	}
	return p.inTheWay(netip.AddrPortFrom(a, port))
}

// processOf is one that has a socket open, by the socket's address in the kernel; 0 is that of one whose end is near.
func processOf(socket uint64) (listener, bool) {
	files, err := unix.SysctlRaw("kern.file")
	if err != nil || socket == 0 {
		return listener{}, false
	}
	for _, f := range records(files) {
		if len(f) < fileSize || binary.NativeEndian.Uint64(f[fileDataAt:]) != socket {
			continue
		}
		pid, uid := binary.NativeEndian.Uint32(f[filePIDAt:]), binary.NativeEndian.Uint32(f[fileUIDAt:])
		if name := commandOf(int(pid)); name != "" {
			return listener{name, int(pid), int(uid)}, true
		}
	}
	return listener{}, false
}

// commandOf is the name of a process; empty where it has ended.
func commandOf(pid int) string {
	p, err := bsd.FindProcess(pid)
	if err != nil {
		return ""
	}
	return p.Command()
}
