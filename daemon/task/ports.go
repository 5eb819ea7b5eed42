package task

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/freejail/freejail/daemon/client"
)

// binding is a port of one address of the host, or of all: the zero address is
// one that is not known, and so may be any.
type binding struct {
	addr     netip.Addr
	port     int
	protocol string
}

func bindingOf(p client.Port) binding {
	addr, err := netip.ParseAddr(p.Address)
	if err != nil {
		addr = netip.Addr{}
	}
	return binding{addr.Unmap(), p.Port, p.Protocol}
}

// meets tells whether two cannot be bound at once. A socket of :: may take IPv4
// too, as its program likes.
func (b binding) meets(o binding) bool {
	if b.port != o.port || b.protocol != o.protocol {
		return false
	}
	all := func(a netip.Addr) bool { return !a.IsValid() || a == netip.IPv6Unspecified() }
	switch {
	case b.addr == o.addr || all(b.addr) || all(o.addr):
		return true
	case b.addr.Is4() && o.addr.Is4():
		return b.addr.IsUnspecified() || o.addr.IsUnspecified()
	}
	return false
}

func (b binding) String() string {
	if !b.addr.IsValid() {
		return fmt.Sprintf("%d/%s", b.port, b.protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(b.addr, uint16(b.port)), b.protocol)
}

// claimPorts fails early, and by name, where the process would fail later.
func (m *Manager) claimPorts(t *task) error {
	for _, p := range t.info.Ports {
		b := bindingOf(p)
		if other, taken := m.claim(b, t.key()); taken != (binding{}) {
			return client.Conflict("port %s: %s is taken on this host by task %s, with %s", p.Name, b, other, taken)
		}
		err := probePort(p)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return client.Conflict("port %s: %s is not an address of this host", p.Name, p.Address)
		}
		if err != nil {
			return client.Conflict("port %s: %s is taken on this host by another program: %v", p.Name, b, err)
		}
	}
	return nil
}

// claim returns who has what meets a binding, if it is not free.
func (m *Manager) claim(b binding, key string) (other string, taken binding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for o, who := range m.ports {
		if b.meets(o) {
			return who, o
		}
	}
	m.ports[b] = key
	return "", binding{}
}

func probePort(p client.Port) error {
	addr := net.JoinHostPort(p.Address, strconv.Itoa(p.Port))
	if p.Protocol == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func (m *Manager) releasePorts(t *task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.ports, func(_ binding, key string) bool { return key == t.key() })
}
