package network

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listCommand shows who has a port.
const listCommand = "sockstat -l -p %d"

// listened finds programs that the kernel does not: with SO_REUSEADDR, as others have it too, it compares
// sockets of the very same address alone, and without it also connections that are over by now
// (in_pcbbind_avail and in_pcblookup_local in sys/netinet/in_pcb.c).
func listened(at netip.AddrPort) error {
	l, err := bindTCP(at, alone)
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	others, err := overlapping(at.Addr())
	if err != nil {
		return err
	}
	for _, a := range others {
		l, err := bindTCP(netip.AddrPortFrom(a, at.Port()), nil)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

func alone(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) })
	return errors.Join(cerr, err)
}

// overlapping are the other addresses of sockets that take connections to an address: all of its family, or
// if it is that, each of the host.
func overlapping(a netip.Addr) ([]netip.Addr, error) {
	switch {
	case a.IsUnspecified():
		list, err := net.InterfaceAddrs()
		return addressesIn(list, a.Is4()), err
	case a.Is4():
		return []netip.Addr{netip.IPv4Unspecified()}, nil
	}
	return []netip.Addr{netip.IPv6Unspecified()}, nil
}

// addressesIn are those of a family. Link-local ones of IPv6 need an interface to be bound, and are left out.
func addressesIn(list []net.Addr, ip4 bool) (out []netip.Addr) {
	for _, one := range list {
		n, ok := one.(*net.IPNet)
		if !ok {
			continue
		}
		a, ok := netip.AddrFromSlice(n.IP)
		if a = a.Unmap(); ok && a.Is4() == ip4 && !a.IsLinkLocalUnicast() {
			out = append(out, a)
		}
	}
	return out
}

// takenEverywhere tells whether a program has a port at all addresses: see listened.
func takenEverywhere(p bound) bool {
	all := netip.IPv4Unspecified()
	if p.at.Addr().Is6() {
		all = netip.IPv6Unspecified()
	}
	return errors.Is(tryBind(p.protocol, netip.AddrPortFrom(all, p.at.Port()), unix.SOL_SOCKET, unix.SO_REUSEADDR),
		syscall.EADDRINUSE)
}

// askedAddress is the option by which a datagram comes with the address that it was sent to. The same
// message, sent with the answer, has that as its source: IP_SENDSRCADDR is IP_RECVDSTADDR.
func askedAddress(ip4 bool) (level, option int) {
	if ip4 {
		return unix.IPPROTO_IP, unix.IP_RECVDSTADDR
	}
	return unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
}

// filesOfProcess is the kernel's limit beside that of resources.
func filesOfProcess() int {
	n, err := unix.SysctlUint32("kern.maxfilesperproc")
	if err != nil {
		return 1024
	}
	return int(n)
}
