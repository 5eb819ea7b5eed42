package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

const pfDevice = "/dev/pf"

// pfiocRule is struct pfioc_rule of net/pfvar.h, the same in FreeBSD 14 and 15.
type pfiocRule struct {
	Action, Ticket, PoolTicket, NR uint32
	Anchor, AnchorCall             [1024]byte
	Rule                           [976]byte
}

// pfRuleAction is where struct pf_rule has its action, by which the kernel knows the kind of a rule set.
const pfRuleAction = 904

// diocGetRules is DIOCGETRULES of net/pfvar.h: _IOWR('D', 6, struct pfioc_rule).
const diocGetRules = 0xc0000000 | unsafe.Sizeof(pfiocRule{})<<16 | 'D'<<8 | 6

// pfActions are PF_PASS, PF_NAT and PF_RDR of netpfil/pf/pf.h.
var pfActions = [...]byte{0, 4, 8}

// pfRuleset is one of an anchor's rule sets: how many rules it has, and a number that each change makes
// another.
type pfRuleset struct{ ticket, rules uint32 }

// pfRulesets are those of an anchor, rules, nat and rdr; none where it has none.
func pfRulesets(anchor string) ([]pfRuleset, error) {
	dev, err := os.Open(pfDevice)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	var all []pfRuleset
	for _, action := range pfActions {
		r := pfiocRule{}
		copy(r.Anchor[:len(r.Anchor)-1], anchor)
		r.Rule[pfRuleAction] = action
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), uintptr(diocGetRules), uintptr(unsafe.Pointer(&r)))
		if errors.Is(errno, unix.EINVAL) { // there is no such anchor
			return nil, nil
		}
		if errno != 0 {
			return nil, fmt.Errorf("%s: rules of the anchor %s: %w", pfDevice, anchor, errno)
		}
		all = append(all, pfRuleset{r.Ticket, r.NR})
	}
	return all, nil
}

// interfaceAddresses are the addresses of the host's interfaces, read at once however many there are.
func interfaceAddresses() ([]hostAddress, error) {
	rib, err := route.FetchRIB(unix.AF_UNSPEC, route.RIBTypeInterface, 0)
	if err != nil {
		return nil, fmt.Errorf("the host's interfaces: %w", err)
	}
	messages, err := route.ParseRIB(route.RIBTypeInterface, rib)
	if err != nil {
		return nil, fmt.Errorf("the host's interfaces: %w", err)
	}
	var all []hostAddress
	names := map[int]string{}
	for _, m := range messages {
		switch m := m.(type) {
		case *route.InterfaceMessage:
			names[m.Index] = m.Name
		case *route.InterfaceAddrMessage:
			if p, ok := ribPrefix(m.Addrs); ok {
				all = append(all, hostAddress{Prefix: p, Interface: names[m.Index]})
			}
		}
	}
	return all, nil
}

// ribPrefix is the address of an interface's message with the length of its mask.
func ribPrefix(addrs []route.Addr) (netip.Prefix, bool) {
	if len(addrs) <= unix.RTAX_IFA {
		return netip.Prefix{}, false
	}
	switch a := addrs[unix.RTAX_IFA].(type) {
	case *route.Inet4Addr:
		bits := 32
		if m, ok := addrs[unix.RTAX_NETMASK].(*route.Inet4Addr); ok {
			bits, _ = net.IPMask(m.IP[:]).Size()
		}
		return netip.PrefixFrom(netip.AddrFrom4(a.IP), bits), true
	case *route.Inet6Addr:
		bits := 128
		if m, ok := addrs[unix.RTAX_NETMASK].(*route.Inet6Addr); ok {
			bits, _ = net.IPMask(m.IP[:]).Size()
		}
		return netip.PrefixFrom(netip.AddrFrom16(a.IP), bits), true
	}
	return netip.Prefix{}, false
}
