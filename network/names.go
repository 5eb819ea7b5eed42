package network

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// stackName is the name of a holder's stack. A dot is the hierarchy of jails; see jail.Name for tasks.
func stackName(holder string) string { return "fjnet-" + strings.ReplaceAll(holder, ".", "+") }

// linkNumber is where a holder's links begin, so that two daemons of a host seldom try the same.
func linkNumber(stateDir, holder string) uint64 {
	sum := sha256.Sum256([]byte(stateDir + "\x00" + holder))
	return binary.BigEndian.Uint64(sum[:])
}

// macOf is the locally administered MAC of a task's end. It comes from the address: who has the
// address next has the MAC too, so that no neighbour's ARP cache is wrong.
func macOf(e Endpoint, try int) string {
	a := e.Addr4
	if !a.IsValid() {
		a = e.Addr6
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", a, try))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// addrs are the addresses of an endpoint.
func (e Endpoint) addrs() (list []netip.Addr) {
	for _, a := range []netip.Addr{e.Addr4, e.Addr6} {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291, appendix A).
func linkLocal(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// linkLocal is what the kernel gives a stack with IPv6 on its link; not valid where there is none.
func (e Endpoint) linkLocal() netip.Addr {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil || !e.Addr6.IsValid() {
		return netip.Addr{}
	}
	return linkLocal(mac)
}
