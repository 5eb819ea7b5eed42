package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An address of alias is on an interface of the operator's. A mark that the kernel keeps with it tells it
// from the operator's own: the group of this daemon's interfaces as the metric of its route, which it
// does not have, as its network is itself.

func attachAlias(n Network, e Endpoint, mark uint32) error {
	l, err := netlink.LinkByName(n.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", n.Interface, err)
	}
	have, err := kernelAddresses()
	if err != nil {
		return err
	}
	for _, a := range e.addrs() {
		if on, ok := have[a]; ok && (on.mark != mark || on.index != l.Attrs().Index) {
			return fmt.Errorf("address %s is one of the host's own", a)
		} else if ok {
			continue
		}
		if err := changeAlias(unix.RTM_NEWADDR, l.Attrs().Index, a, mark); err != nil {
			return fmt.Errorf("add %s to interface %s: %w", a, n.Interface, err)
		}
	}
	return awaitLocal(e.addrs()...)
}

func detachAlias(e Endpoint, mark uint32) error {
	have, err := kernelAddresses()
	if err != nil {
		return err
	}
	for _, a := range e.addrs() {
		if on := have[a]; on.mark == mark {
			err = errors.Join(err, changeAlias(unix.RTM_DELADDR, on.index, a, mark))
		}
	}
	return err
}

// aliases are the addresses with a mark.
func aliases(mark uint32) ([]Endpoint, error) {
	have, err := kernelAddresses()
	var out []Endpoint
	for a, on := range have {
		e := Endpoint{Mode: Alias, Addr4: a}
		if a.Is6() {
			e.Addr4, e.Addr6 = netip.Addr{}, a
		}
		if on.mark == mark {
			out = append(out, e)
		}
	}
	return out, err
}

// kernelAddress is where an address of the host is.
type kernelAddress struct {
	bits, index int
	mark        uint32
}

func kernelAddresses() (map[netip.Addr]kernelAddress, error) {
	messages, err := whole(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]kernelAddress{}
	for _, m := range messages {
		head := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttrAsMap(m[head.Len():])
		if err != nil {
			return nil, err
		}
		value, ok := attrs[unix.IFA_LOCAL]
		if !ok { // as IPv6 has it
			value = attrs[unix.IFA_ADDRESS]
		}
		at := kernelAddress{bits: int(head.Prefixlen), index: int(head.Index)}
		if metric := attrs[unix.IFA_RT_PRIORITY].Value; len(metric) == 4 {
			at.mark = binary.NativeEndian.Uint32(metric)
		}
		if a, ok := netip.AddrFromSlice(value.Value); ok {
			out[a] = at
		}
	}
	return out, nil
}

// changeAlias adds or deletes an address. The host itself does not choose it for what it sends.
func changeAlias(request, index int, a netip.Addr, mark uint32) error {
	flags := unix.NLM_F_ACK
	if request == unix.RTM_NEWADDR {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	req := nl.NewNetlinkRequest(request, flags)
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	head := nl.NewIfAddrmsg(family)
	head.Index, head.Prefixlen = uint32(index), uint8(a.BitLen())
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)))
	req.AddData(nl.NewRtAttr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(mark)))
	lifetime := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: math.MaxUint32, Prefered: 0}}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lifetime.Serialize()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
