package network

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sysctls by number: CTL_NET, PF_INET, IPPROTO_TCP and TCPCTL_PCBLIST or TCPCTL_DROP of netinet/tcp_var.h.
var tcpList, tcpDrop = [4]int32{4, inet, 6, 11}, [4]int32{4, inet, 6, 15}

// Offsets in struct xtcpcb of netinet/tcp_var.h, the same on amd64 and arm64 of FreeBSD 14 and 15, and states of
// netinet/tcp_fsm.h.
const (
	sizeTCP   = 744
	sizeGen   = 64 // struct xinpgen, which is first and last
	tcpFPort  = 260
	tcpLPort  = 262
	tcpFAddr  = 264 // an IPv4 address is in the last four bytes
	tcpLAddr  = 280
	tcpVFlag  = 400 // 1 is IPv4
	tcpState  = 568
	sizeStore = 128 // struct sockaddr_storage

	stateListen, stateFinWait1, stateLastAck = 1, 6, 8
)

// dropping ends the TCP connections of a stack whose processes have ended: each holds its jail,
// for minutes where the other end is silent. Those with something to send have a moment for it.
type dropping struct {
	list   [256 << 10]byte
	size   uintptr
	pair   [2 * sizeStore]byte // the other end, and ours
	pause  unix.Timespec
	rounds int // that wait for what is to be sent
	atMost int
}

func newDropping() *dropping {
	return &dropping{pause: unix.NsecToTimespec(20e6), rounds: 25, atMost: 10000}
}

//go:norace
//go:nosplit
func (d *dropping) run() syscall.Errno {
	for round := 0; round < d.atMost; round++ {
		d.size = uintptr(len(d.list))
		_, _, errno := syscall.RawSyscall6(unix.SYS___SYSCTL, uintptr(unsafe.Pointer(&tcpList)), uintptr(len(tcpList)),
			uintptr(unsafe.Pointer(&d.list)), uintptr(unsafe.Pointer(&d.size)), 0, 0)
		if errno != 0 && errno != syscall.ENOMEM { // that: there are more of them
			return errno
		}
		dropped, waiting := d.pass(round < d.rounds)
		if dropped+waiting == 0 {
			return 0
		}
		if waiting > 0 || round >= d.rounds {
			syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&d.pause)), 0, 0)
		}
	}
	return 0
}

// pass drops what is in the list, but for what is still to be sent where there is time for it.
//
//go:norace
//go:nosplit
func (d *dropping) pass(patient bool) (dropped, waiting int) {
	for at := uintptr(sizeGen); at+sizeTCP <= d.size && d.size <= uintptr(len(d.list)); at += sizeTCP {
		one := (*[sizeTCP]byte)(unsafe.Pointer(&d.list[at]))
		if *(*uint64)(unsafe.Pointer(one)) != sizeTCP {
			break
		}
		state := *(*int32)(unsafe.Pointer(&one[tcpState]))
		if state <= stateListen {
			continue
		}
		if patient && state >= stateFinWait1 && state <= stateLastAck {
			waiting++
			continue
		}
		d.address(one, 0, tcpFPort, tcpFAddr)
		d.address(one, sizeStore, tcpLPort, tcpLAddr)
		_, _, errno := syscall.RawSyscall6(unix.SYS___SYSCTL, uintptr(unsafe.Pointer(&tcpDrop)), uintptr(len(tcpDrop)),
			0, 0, uintptr(unsafe.Pointer(&d.pair)), uintptr(len(d.pair)))
		if errno == 0 {
			dropped++
		}
	}
	return dropped, waiting
}

// address writes one end's struct sockaddr_storage.
//
//go:norace
//go:nosplit
func (d *dropping) address(one *[sizeTCP]byte, to, portAt, addrAt int) {
	first, n, at := addrAt, 16, to+8
	d.pair[to], d.pair[to+1] = sizeSockaddr6, inet6
	if one[tcpVFlag]&1 != 0 {
		first, n, at = addrAt+12, 4, to+4
		d.pair[to], d.pair[to+1] = sizeSockaddr4, inet
	}
	d.pair[to+2], d.pair[to+3] = one[portAt], one[portAt+1]
	for i := 0; i < n; i++ {
		d.pair[at+i] = one[first+i]
	}
}
