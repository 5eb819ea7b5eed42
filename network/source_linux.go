package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg of linux/inet_diag.h.
const (
	diagByFamily = 20 // SOCK_DIAG_BY_FAMILY of linux/sock_diag.h
	diagUID      = 64
	diagSize     = 72
)

// userOf is whose socket on this host is the client's end of what has come to a server's.
func userOf(protocol string, client, server netip.AddrPort) (uint32, error) {
	family, kind := byte(unix.AF_INET), byte(unix.IPPROTO_TCP)
	if client.Addr().Is6() {
		family = unix.AF_INET6
	}
	ends := []netip.AddrPort{client, server}
	if protocol == "udp" { // of which the kernel looks for who gets what is sent
		kind = unix.IPPROTO_UDP
		slices.Reverse(ends)
	}
	req := append([]byte{family, kind, 0, 0}, 0xff, 0xff, 0xff, 0xff) // of all states
	for _, e := range ends {
		req = binary.BigEndian.AppendUint16(req, e.Port())
	}
	for _, e := range ends {
		var a [16]byte
		copy(a[:], e.Addr().WithZone("").AsSlice())
		req = append(req, a[:]...)
	}
	req = append(req, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // any interface, no cookie
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answers, err := c.Execute(netlink.Message{Header: netlink.Header{Type: diagByFamily, Flags: netlink.Request},
		Data: req})
	if err != nil {
		return 0, err
	}
	if len(answers) != 1 || len(answers[0].Data) < diagSize {
		return 0, fmt.Errorf("%d answers about a socket", len(answers))
	}
	return binary.NativeEndian.Uint32(answers[0].Data[diagUID:]), nil
}
