package network

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// An address of alias is on an interface of the operator's, before the jail that is confined to it. A
// mark that the kernel keeps with it tells it from the operator's own.

// aliasMark has an address of alias be known as this state directory's, by what the kernel keeps with it: the
// unused bytes of its mask (in_aifaddr_ioctl in netinet/in.c), and a lifetime of 136 years that is not for ever.
type aliasMark [8]byte

func aliasMarkOf(stateDir string) aliasMark {
	sum := sha256.Sum256([]byte(stateDir))
	return aliasMark(sum[:])
}

func (m aliasMark) text() string { return string(m[:]) }

func (m aliasMark) lifetime() uint32 {
	return 0xffff0000 | uint32(binary.BigEndian.Uint16(m[:])%0xffff)
}

func (s *kernelStacks) attachAlias(n Network, e Endpoint) error {
	if !s.host.has(n.Interface) {
		return noInterface(n)
	}
	for _, a := range e.addrs() {
		if has, marked := s.host.alias(n.Interface, a); has && !marked {
			return fmt.Errorf("address %s is one of the host's own, on interface %s", a, n.Interface)
		} else if has {
			continue
		}
		if err := s.host.addAddr(n.Interface, netip.PrefixFrom(a, a.BitLen()), true); err != nil {
			return err
		}
	}
	return s.host.awaitAddress(n.Interface, e.Addr6)
}

// alias tells whether an interface has an address, and whether that is freejail's.
func (s sockets) alias(name string, a netip.Addr) (has, marked bool) {
	if a.Is4() {
		b := named(sizeAliasReq, name)
		putAddr(b[nameSize:], a)
		if ioctl(s.inet, unix.SIOCGIFALIAS, b) != nil {
			return false, false
		}
		return true, string(b[aliasMarkAt:aliasMaskAt+sizeSockaddr4]) == s.mark.text()
	}
	b := addrReq(name, a)
	if s.inet6 < 0 || ioctl(s.inet6, siocLifetime6, b) != nil {
		return false, false
	}
	return true, binary.NativeEndian.Uint32(b[nameSize+validLifetimeAt:]) == s.mark.lifetime()
}

// addressPatience is far more than the kernel takes to find out whether another host has an address: a second
// for each of net.inet6.ip6.dad_count.
const addressPatience = 10 * time.Second

// awaitAddress waits until programs can bind an IPv6 address: on an interface of the operator's the kernel asks
// the network first whether somebody has it.
func (s sockets) awaitAddress(name string, a netip.Addr) error {
	for end := time.Now().Add(addressPatience); a.IsValid(); time.Sleep(20 * time.Millisecond) {
		b := addrReq(name, a)
		if err := ioctl(s.inet6, siocAddrFlag6, b); err != nil {
			return told("address "+a.String(), name, err)
		}
		flags := binary.NativeEndian.Uint32(b[nameSize:])
		switch {
		case flags&addrDuplicated != 0:
			return fmt.Errorf("address %s on interface %s: another host of the network has it", a, name)
		case flags&addrTentative == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("address %s on interface %s cannot be used: the interface is down", a, name)
		}
	}
	return nil
}

func (s *kernelStacks) detachAlias(e Endpoint) error {
	var errs []error
	for _, a := range e.addrs() {
		name, err := s.interfaceOf(e.Network, a)
		if err == nil && name != "" {
			err = s.host.delAddr(name, a)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// interfaceOf is where an address of alias is, if it is anywhere. The network may have another interface by now.
func (s *kernelStacks) interfaceOf(network string, a netip.Addr) (string, error) {
	for _, n := range s.networks {
		if n.Name != network || n.Mode != Alias {
			continue
		}
		if _, marked := s.host.alias(n.Interface, a); marked {
			return n.Interface, nil
		}
	}
	list, err := kernelAddresses()
	for _, on := range list {
		if on.Addr() == a && s.isAlias(on) {
			return on.Interface, nil
		}
	}
	return "", err
}

func (s *kernelStacks) isAlias(a hostAddress) bool {
	if a.Bits() != a.Addr().BitLen() {
		return false
	}
	_, marked := s.host.alias(a.Interface, a.Addr())
	return marked
}

// aliases are the addresses of the networks of alias that are there.
func (s *kernelStacks) aliases() (found []Endpoint, err error) {
	list, err := kernelAddresses()
	for _, a := range list {
		for _, n := range s.networks {
			if n.Mode != Alias || n.Interface != a.Interface || !s.isAlias(a) {
				continue
			}
			e := Endpoint{Network: n.Name, Mode: Alias}
			if n.Pool4.Contains(a.Addr()) {
				e.Addr4 = a.Addr()
			} else if n.Pool6.Contains(a.Addr()) {
				e.Addr6 = a.Addr()
			} else {
				continue
			}
			found = append(found, e)
		}
	}
	return found, err
}
