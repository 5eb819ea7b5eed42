package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// familyOf is "4" or "6": a socket of :: is one of IPv6 alone, by what package net sets.
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// listenTCP takes a port, which no program has at its address or, where that is all of them, at any. An
// inherited socket is closed, but for the copy that listens on.
func listenTCP(at netip.AddrPort, inherited *os.File) (*net.TCPListener, error) {
	if inherited != nil {
		return listenOn(inherited) // which did not where its task refused connections
	}
	if err := listened(at); err != nil {
		return nil, err
	}
	return bindTCP(at, nil)
}

// bindTCP listens. Connections that have or had the port are not in the way, as package net sets it.
func bindTCP(at netip.AddrPort, control func(_, _ string, c syscall.RawConn) error) (*net.TCPListener, error) {
	cfg := net.ListenConfig{Control: control}
	cfg.SetMultipathTCP(false)
	l, err := cfg.Listen(context.Background(), "tcp"+familyOf(at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// listenUDP is listenTCP for datagrams.
func listenUDP(at netip.AddrPort, inherited *os.File) (*net.UDPConn, error) {
	if inherited != nil {
		c, err := net.FilePacketConn(inherited)
		if err = errors.Join(err, inherited.Close()); err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	}
	c, err := net.ListenUDP("udp"+familyOf(at.Addr()), net.UDPAddrFromAddrPort(at))
	if err != nil || !at.Addr().IsUnspecified() {
		return c, err
	}
	// Answers come from the address that was asked.
	raw, err := c.SyscallConn()
	if err == nil {
		level, option := askedAddress(at.Addr().Is4())
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		err = errors.Join(cerr, err)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// tryBind takes a place for a moment, with an option set.
func tryBind(protocol string, at netip.AddrPort, level, option int) error {
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(cerr, err)
	}}
	cfg.SetMultipathTCP(false)
	var taken io.Closer
	var err error
	if protocol == "udp" {
		taken, err = cfg.ListenPacket(context.Background(), "udp"+familyOf(at.Addr()), at.String())
	} else {
		taken, err = cfg.Listen(context.Background(), "tcp"+familyOf(at.Addr()), at.String())
	}
	if err != nil {
		return err
	}
	return taken.Close()
}

// controlSize is room for a message with an address and an interface: a struct cmsghdr of 16 bytes with a
// struct in6_pktinfo of 20, aligned to 8.
const controlSize = 64

// placeOf is where a socket is bound.
func placeOf(fd int) (p bound, err error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return p, err
	}
	switch p.protocol = "tcp"; kind {
	case unix.SOCK_STREAM:
	case unix.SOCK_DGRAM:
		p.protocol = "udp"
	default:
		return p, fmt.Errorf("a socket of type %d", kind)
	}
	name, err := unix.Getsockname(fd)
	switch s := name.(type) {
	case *unix.SockaddrInet4:
		p.at = netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(s.Addr)
		if s.ZoneId != 0 {
			i, err := net.InterfaceByIndex(int(s.ZoneId))
			if err != nil {
				return p, err
			}
			a = a.WithZone(i.Name)
		}
		p.at = netip.AddrPortFrom(a, uint16(s.Port))
	default:
		err = errors.Join(err, errors.New("not a socket of IPv4 or IPv6"))
	}
	return p, err
}

// openFiles is how many descriptors the daemon can have.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return min(int(min(uint64(l.Cur), 1<<30)), filesOfProcess())
}
