package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// Requests that golang.org/x/sys/unix has not, or has an older one of: sys/sockio.h, netinet6/in6_var.h.
const (
	siocAddAddr   = 0x8044692b // SIOCAIFADDR
	siocAddAddr6  = 0x8088691b // SIOCAIFADDR_IN6
	siocDelAddr6  = 0x81206919 // SIOCDIFADDR_IN6
	siocAddrFlag6 = 0xc1206949 // SIOCGIFAFLAG_IN6
	siocLifetime6 = 0xc1206951 // SIOCGIFALIFETIME_IN6
	siocGetND     = 0xc048696c // SIOCGIFINFO_IN6
	siocSetND     = 0xc048696d // SIOCSIFINFO_IN6
	siocData      = 0x8020692c // SIOCGIFDATA
)

// Flags of netinet6/nd6.h and netinet6/in6_var.h.
const (
	ndAcceptRA, ndDisabled, ndAutoLinkLocal, ndNoDAD, ndStableAddr = 0x2, 0x8, 0x20, 0x100, 0x800

	addrDuplicated, addrTentative = 0x4, 0x2
)

// sockets act in the stack that they were opened in, whoever holds them. inet6 is -1 where the kernel has no IPv6.
type sockets struct {
	inet, inet6, route int
	mark               aliasMark
}

// openSockets opens those of the host.
func openSockets() (s sockets, err error) {
	if s.inet, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return s, fmt.Errorf("socket: %w", err)
	}
	if s.inet6, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		s.inet6 = -1 // a kernel without IPv6
	}
	if s.route, err = unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return s, fmt.Errorf("routing socket: %w", err)
	}
	return s, nil
}

func (s sockets) close() {
	for _, fd := range []int{s.inet, s.inet6, s.route} {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing was written to it that could be lost
		}
	}
}

// ioctl's b is a struct that begins with the interface's name.
func ioctl(fd int, request uint, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}

// do is ioctl on the IPv4 socket, with an error that says what was done.
func (s sockets) do(what string, request uint, b []byte) error {
	return told(what, unix.ByteSliceToString(b[:nameSize]), ioctl(s.inet, request, b))
}

func told(what, name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s of interface %s: %w", what, name, err)
	}
	return nil
}

// has tells whether there is an interface of this name.
func (s sockets) has(name string) bool {
	return ioctl(s.inet, unix.SIOCGIFINDEX, named(sizeIfreq, name)) == nil
}

func (s sockets) index(name string) (int, error) {
	b := named(sizeIfreq, name)
	err := s.do("index", unix.SIOCGIFINDEX, b)
	return int(binary.NativeEndian.Uint16(b[nameSize:])), err
}

func (s sockets) mtu(name string) (int, error) {
	b := named(sizeIfreq, name)
	err := s.do("MTU", unix.SIOCGIFMTU, b)
	return int(int32(binary.NativeEndian.Uint32(b[nameSize:]))), err
}

func (s sockets) setMTU(name string, mtu int) error {
	if now, err := s.mtu(name); err != nil || now == mtu {
		return err
	}
	return s.do(fmt.Sprintf("MTU %d", mtu), unix.SIOCSIFMTU, numberReq(name, mtu))
}

func (s sockets) setMAC(name string, mac net.HardwareAddr) error {
	return s.do("MAC", unix.SIOCSIFLLADDR, linkReq(name, mac))
}

// isUp tells whether an interface is there and up.
func (s sockets) isUp(name string) bool {
	b := named(sizeIfreq, name)
	return ioctl(s.inet, unix.SIOCGIFFLAGS, b) == nil && b[nameSize]&unix.IFF_UP != 0
}

// up leaves the other flags as they are.
func (s sockets) up(name string) error {
	b := named(sizeIfreq, name)
	if err := s.do("flags", unix.SIOCGIFFLAGS, b); err != nil || b[nameSize]&unix.IFF_UP != 0 {
		return err
	}
	b[nameSize] |= unix.IFF_UP
	return s.do("flags", unix.SIOCSIFFLAGS, b)
}

// pointed is a struct ifreq with a length and a pointer, or a pointer alone.
func pointed(name string, to []byte, withLength bool) []byte {
	b := named(sizeIfreq, name)
	at := nameSize
	if withLength {
		binary.NativeEndian.PutUint64(b[at:], uint64(len(to)))
		at += 8
	}
	binary.NativeEndian.PutUint64(b[at:], uint64(uintptr(unsafe.Pointer(&to[0]))))
	return b
}

func (s sockets) rename(name, to string) error {
	text := named(nameSize, to)
	err := s.do("rename to "+to, unix.SIOCSIFNAME, pointed(name, text, false))
	runtime.KeepAlive(text)
	return err
}

// description is empty where an interface has none, or is not there.
func (s sockets) description(name string) string {
	text := make([]byte, maxDescription)
	err := ioctl(s.inet, unix.SIOCGIFDESCR, pointed(name, text, true))
	runtime.KeepAlive(text)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(text)
}

// maxDescription is room for that of an interface, net.ifdescr_maxlen of net/if.c.
const maxDescription = 1024

// groups are those that an interface is in.
func (s sockets) groups(name string) ([]string, error) { return s.groupList(unix.SIOCGIFGROUP, name) }

// members are the interfaces of a group.
func (s sockets) members(group string) ([]string, error) {
	return s.groupList(unix.SIOCGIFGMEMB, group)
}

// groupList asks for a list's size first, as net/if.c wants it.
func (s sockets) groupList(request uint, name string) (list []string, err error) {
	for range 10 { // it may grow meanwhile
		b := named(sizeGroupReq, name)
		if err = ioctl(s.inet, request, b); err != nil {
			break
		}
		n := binary.NativeEndian.Uint32(b[nameSize:])
		if n == 0 {
			return nil, nil
		}
		names := make([]byte, n)
		binary.NativeEndian.PutUint64(b[nameSize+8:], uint64(uintptr(unsafe.Pointer(&names[0]))))
		err = ioctl(s.inet, request, b)
		runtime.KeepAlive(names)
		if errors.Is(err, unix.EINVAL) {
			continue
		}
		for at := 0; err == nil && at+nameSize <= len(names); at += nameSize {
			if one := unix.ByteSliceToString(names[at : at+nameSize]); one != "" {
				list = append(list, one)
			}
		}
		break
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such group, or interface
	}
	return list, err
}

func (s sockets) addGroup(name, group string) error {
	if err := s.do("group", unix.SIOCAIFGROUP, groupReq(name, group)); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// addAddr adds an address as it is to stay, or one of alias, which is marked. An IPv4 address that is there is taken
// away and added again.
func (s sockets) addAddr(name string, p netip.Prefix, marked bool) error {
	fd, request, b := s.inet, uint(siocAddAddr), []byte(nil)
	switch {
	case p.Addr().Is4() && marked:
		b = aliasReq(name, p, s.mark.text())
	case p.Addr().Is4():
		b = aliasReq(name, p, "")
	case marked:
		fd, request, b = s.inet6, siocAddAddr6, aliasReq6(name, p, s.mark.lifetime())
	default:
		fd, request, b = s.inet6, siocAddAddr6, aliasReq6(name, p, forever)
	}
	err := ioctl(fd, request, b)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return told("address "+p.String(), name, err)
}

func (s sockets) delAddr(name string, a netip.Addr) error {
	fd, request := s.inet, uint(unix.SIOCDIFADDR)
	if a.Is6() {
		fd, request = s.inet6, siocDelAddr6
	}
	err := ioctl(fd, request, addrReq(name, a))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	return told("removal of address "+a.String(), name, err)
}

const ndFlagsAt = nameSize + 20 // nd_ifinfo.flags

// setND sets flags of an interface's neighbor discovery, and clears others.
func (s sockets) setND(name string, set, clear uint32) error {
	if s.inet6 < 0 {
		return nil
	}
	b := named(sizeNDReq, name)
	err := ioctl(s.inet6, siocGetND, b)
	if err == nil {
		flags := binary.NativeEndian.Uint32(b[ndFlagsAt:])
		binary.NativeEndian.PutUint32(b[ndFlagsAt:], flags&^clear|set)
		err = ioctl(s.inet6, siocSetND, b)
	}
	return told("neighbor discovery", name, err)
}

// bridge runs a request on a bridge: BRDG* of net/if_bridgevar.h, on b.
func (s sockets) bridge(request uint, name string, command int, b []byte) error {
	d := named(sizeDrvReq, name)
	binary.NativeEndian.PutUint64(d[nameSize:], uint64(command))
	binary.NativeEndian.PutUint64(d[nameSize+8:], uint64(len(b)))
	binary.NativeEndian.PutUint64(d[nameSize+16:], uint64(uintptr(unsafe.Pointer(&b[0]))))
	err := ioctl(s.inet, request, d)
	runtime.KeepAlive(b)
	return err
}

// addRoute adds a route that may be there: to a network or an address, by a gateway or an interface.
func (s sockets) addRoute(to netip.Prefix, gateway route.Addr, flags int) error {
	m := route.RouteMessage{Version: unix.RTM_VERSION, Type: unix.RTM_ADD, Seq: 1,
		Flags: flags | unix.RTF_UP | unix.RTF_STATIC,
		Addrs: []route.Addr{unix.RTAX_DST: routeAddr(to.Addr(), 0), unix.RTAX_GATEWAY: gateway}}
	if flags&unix.RTF_HOST == 0 {
		m.Addrs = append(m.Addrs, routeAddr(maskOf(to), 0)) // RTAX_NETMASK
	}
	b, err := m.Marshal()
	if err == nil {
		_, err = unix.Write(s.route, b)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

func routeAddr(a netip.Addr, zone int) route.Addr {
	if a.Is4() {
		return &route.Inet4Addr{IP: a.As4()}
	}
	return &route.Inet6Addr{IP: a.As16(), ZoneID: zone}
}
