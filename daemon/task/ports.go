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
	"github.com/freejail/freejail/network"
)

// binding is count ports, one where that is 0, of one address of the host, or of all: the zero address
// is one that is not known, and so may be any.
type binding struct {
	addr     netip.Addr
	port     int
	count    int
	protocol string
}

func bindingOf(p client.Port) binding {
	addr, err := netip.ParseAddr(p.Address)
	if err != nil {
		addr = netip.Addr{}
	}
	return binding{addr.Unmap(), p.Port, p.Count, p.Protocol}
}

// insideOf is a port in the task's own stack, or at its own address.
func insideOf(p client.Port) binding {
	return binding{port: p.Inside(), count: p.Count, protocol: p.Protocol}
}

func (b binding) last() int { return b.port + max(1, b.count) - 1 }

// meets tells whether two cannot be bound at once. A socket of :: may take IPv4
// too, as its program likes.
func (b binding) meets(o binding) bool {
	if b.port > o.last() || o.port > b.last() || b.protocol != o.protocol {
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
	ports := portRange(b.port, b.count) + "/" + b.protocol
	switch {
	case !b.addr.IsValid():
		return ports
	case b.addr.Is6():
		return "[" + b.addr.String() + "]:" + ports
	}
	return b.addr.String() + ":" + ports
}

// claim is a port that a task has: of the host, or of a stack that tasks of an allocation share. Tasks
// of one allocation may have the same of the host: which of them serves it is theirs to know.
type claim struct {
	binding
	stack      string // by its holder; empty is the host's
	key, alloc string
	leads      string // where a port of the host leads; empty is to whoever listens there
	// whole is all of an address that a task has of the host's; confined is a port there. Who listens at all of the
	// host's addresses does not listen at a whole one, and may be in the way of the other.
	whole, confined bool
}

func (c claim) shares(o claim) bool {
	return c.key == o.key || c.stack == "" && c.alloc != "" && c.alloc == o.alloc && c.leads == o.leads
}

func (c claim) conflicts(o claim) bool {
	switch {
	case c.stack != o.stack:
		return false
	case c.whole || o.whole:
		return c.addr == o.addr
	case jailsListenApart && c.confined != o.confined: // which of them is at the very address is seen by its whole
		return false
	}
	return c.meets(o.binding)
}

// String is what one has of the host, for another whose way it is in.
func (c claim) String() string {
	if c.whole {
		return "the address " + c.addr.String()
	}
	return c.binding.String()
}

// addressClaims are those of a task with addresses of the host's, which it has to itself, and its ports there.
func (t *task) addressClaims() (out []claim) {
	i := t.snapshot()
	if i.Network == nil || i.Network.Mode != string(network.Alias) {
		return nil
	}
	for _, a := range []netip.Addr{i.Network.Addr4, i.Network.Addr6} {
		if !a.IsValid() {
			continue
		}
		out = append(out, claim{binding: binding{addr: a}, key: t.key(), whole: true})
		for _, p := range i.Ports {
			if b := insideOf(p); !p.Exposed {
				b.addr = a
				out = append(out, claim{binding: b, key: t.key(), confined: true})
			}
		}
	}
	return out
}

// claimAddresses fails, by name, where a port of another task is in the way at an address of the task's, or the
// other way round.
func (m *Manager) claimAddresses(t *task) error {
	for _, c := range t.addressClaims() {
		if other, taken := m.claim(c); taken && !other.shares(c) {
			return client.Conflict("%s is taken on this host by task %s, with %s", c, other.key, other)
		}
	}
	return nil
}

// claims are those of a port.
func (t *task) claims(p client.Port) (out []claim) {
	alloc := t.info.Spec.NomadLabels()["alloc_id"]
	holder := holderOf(t.info, t.key())
	if p.Port != 0 && !p.Exposed {
		c := claim{binding: bindingOf(p), key: t.key(), alloc: alloc}
		if p.To != 0 {
			c.leads = fmt.Sprint(holder, " ", p.To)
		}
		out = append(out, c)
	}
	if holder != t.key() && p.To != 0 && !p.Exposed && !p.Job {
		out = append(out, claim{binding: insideOf(p), stack: holder, key: t.key(), alloc: alloc})
	}
	return out
}

// claimPorts fails early, and by name, where the process would fail later.
func (m *Manager) claimPorts(t *task) error {
	for i := range t.info.Ports {
		p := &t.info.Ports[i]
		for _, c := range t.claims(*p) {
			if err := m.claimPort(t, p, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) claimPort(t *task, p *client.Port, c claim) error {
	other, taken := m.claim(c)
	switch {
	case taken && !other.shares(c):
		return m.elsewhere(t, p, c, other)
	case c.stack != "" || taken:
		return nil
	case p.Job && c.alloc != "" && c.leads == "": // another task may be the one that serves it, and serve it by now
		return nil
	}
	at, err := probePort(*p)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return client.Conflict("port %s: %s is not an address of this host", p.Name, p.Address)
	}
	if err != nil {
		return client.Conflict("port %s: %s is taken on this host by %s: %v%s", p.Name, c, programAt(c, at), err,
			elseAt(*p, c))
	}
	return nil
}

// elseAt is what to do where a program has a published port at one of the host's addresses.
func elseAt(p client.Port, c claim) string {
	if c.addr.IsValid() && !c.addr.IsUnspecified() {
		return ""
	}
	return fmt.Sprintf("; at an address of this host that has it free: ADDRESS:%d:%d", p.Port, p.Inside())
}

// programAt is who has a port of a claim.
func programAt(c claim, port int) string {
	at := []netip.Addr{c.addr}
	if !c.addr.IsValid() {
		at = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range at {
		if who := network.ProgramAt(c.protocol, netip.AddrPortFrom(a, uint16(port))); who != "" {
			return who
		}
	}
	return "another program"
}

// elsewhere is what becomes of a port that another task has. One that the allocation has for all of its
// tasks leads to the first that does not say what it is for.
func (m *Manager) elsewhere(t *task, p *client.Port, c, other claim) error {
	const advice = "name the ports of each task in config { ports = [...] }"
	ofGroup := c.alloc != "" && c.alloc == other.alloc
	switch {
	case c.stack != "":
		return client.Conflict("port %s: %s is taken in the network stack of this allocation by task %s, which this "+
			"one shares (share = \"group\"): a port of an image cannot move there; have the program of one of the two "+
			"listen on another port, and say ports = [] in its config", p.Name, c, other.key)
	case ofGroup && p.Job && t.info.Spec.Ports[p.Name].Offered:
		m.Event(t.id(), "ports", fmt.Sprintf("port %s: %s leads to task %s of the allocation: %s", p.Name, c, other.key,
			advice))
		p.Port, p.Address = 0, ""
		return nil
	case ofGroup:
		return client.Conflict("port %s: %s leads to task %s of the allocation already: %s", p.Name, c, other.key,
			advice)
	}
	return client.Conflict("port %s: %s is taken on this host by task %s, with %s", p.Name, c, other.key, other)
}

// claim records a claim unless one that it cannot share is in its way. It returns that, or else one
// with which it is shared.
func (m *Manager) claim(c claim) (other claim, taken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.ports {
		if !c.conflicts(o) {
			continue
		}
		if other, taken = o, true; !c.shares(o) {
			return o, true
		}
	}
	m.ports = append(m.ports, c)
	return other, taken
}

// probePort binds what is to be bound, for a moment. It returns the first port that cannot be, and why.
func probePort(p client.Port) (int, error) {
	for n := range max(1, p.Count) {
		if err := probe(p.Protocol, net.JoinHostPort(p.Address, strconv.Itoa(p.Port+n))); err != nil {
			return p.Port + n, err
		}
	}
	return 0, nil
}

func probe(protocol, addr string) error {
	if protocol == "udp" {
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

// releasePorts leaves a task its addresses, which are there until releaseAddresses.
func (m *Manager) releasePorts(t *task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports = slices.DeleteFunc(m.ports, func(c claim) bool { return c.key == t.key() && !c.whole })
}

func (m *Manager) releaseAddresses(t *task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports = slices.DeleteFunc(m.ports, func(c claim) bool { return c.key == t.key() && c.whole })
}

// adoptPorts has what a task of an earlier daemon has be its own.
func (m *Manager) adoptPorts(t *task) {
	more := t.addressClaims()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range t.info.Ports {
		m.ports = append(m.ports, t.claims(p)...)
	}
	m.ports = append(m.ports, more...)
}
