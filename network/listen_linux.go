package network

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listCommand shows who has a port.
const listCommand = "ss -lnup -lntp sport = :%d"

// listened finds no program that the kernel does not: this one refuses a port of all addresses where another
// listens at one of them, and one of an address where another listens at all.
func listened(netip.AddrPort) error { return nil }

// takenEverywhere tells whether a program has a port at all addresses: then it has it at one that nobody has, of
// RFC 5737 and RFC 6666.
func takenEverywhere(p bound) bool {
	nobodys := netip.AddrFrom4([4]byte{192, 0, 2, 255})
	if p.at.Addr().Is6() {
		nobodys = netip.MustParseAddr("100::1")
	}
	return errors.Is(tryBind(p.protocol, netip.AddrPortFrom(nobodys, p.at.Port()), unix.IPPROTO_IP, unix.IP_FREEBIND),
		syscall.EADDRINUSE)
}

// askedAddress is the option by which a datagram comes with the address that it was sent to. The same
// message, sent with the answer, has that as its source.
func askedAddress(ip4 bool) (level, option int) {
	if ip4 {
		return unix.IPPROTO_IP, unix.IP_PKTINFO
	}
	return unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
}

func filesOfProcess() int { return 1 << 30 }
