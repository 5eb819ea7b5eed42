package task

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

// claim is a port that a task has. Tasks of one allocation may have the same: which of them serves
// it is theirs to know.
type claim struct {
	binding
	key, alloc string
}

func (c claim) shares(o claim) bool { return c.key == o.key || c.alloc != "" && c.alloc == o.alloc }

func (t *task) claim(p client.Port) claim {
	return claim{bindingOf(p), t.key(), t.info.Spec.NomadLabels()["alloc_id"]}
}

// claimPorts fails early, and by name, where the process would fail later.
func (m *Manager) claimPorts(t *task) error {
	for _, p := range t.info.Ports {
		if p.Exposed {
			continue
		}
		c := t.claim(p)
		other, taken := m.claim(c)
		if taken && !other.shares(c) {
			return client.Conflict("port %s: %s is taken on this host by task %s, with %s", p.Name, c, other.key,
				other.binding)
		}
		if taken || p.Job && c.alloc != "" { // another task may be the one that serves it, and serve it by now
			continue
		}
		err := probePort(p)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return client.Conflict("port %s: %s is not an address of this host", p.Name, p.Address)
		}
		if err != nil {
			return client.Conflict("port %s: %s is taken on this host by another program: %v", p.Name, c, err)
		}
	}
	return nil
}

// claim records a claim unless one that it cannot share is in its way. It returns that, or else one
// with which it is shared.
func (m *Manager) claim(c claim) (other claim, taken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.ports {
		if !c.meets(o.binding) {
			continue
		}
		if other, taken = o, true; !c.shares(o) {
			return o, true
		}
	}
	m.ports = append(m.ports, c)
	return other, taken
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
	m.ports = slices.DeleteFunc(m.ports, func(c claim) bool { return c.key == t.key() })
}
