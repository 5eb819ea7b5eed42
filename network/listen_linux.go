package network

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// listCommand shows who has a port.
const listCommand = "ss -lnup -lntp sport = :%d"

// listened finds no program that the kernel does not: this one refuses a port of all addresses where another
// listens at one of them, and one of an address where another listens at all.
func listened(netip.AddrPort) error { return nil }

// askedAddress is the option by which a datagram comes with the address that it was sent to. The same
// message, sent with the answer, has that as its source.
func askedAddress(ip4 bool) (level, option int) {
	if ip4 {
		return unix.IPPROTO_IP, unix.IP_PKTINFO
	}
	return unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
}

func filesOfProcess() int { return 1 << 30 }
