package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/internal/keylock"
)

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// interfaceForm is what names of interfaces are made of on both systems.
var interfaceForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)

// place is where a network is configured, before an error.
func place(n Network) string {
	if n.Where == "" {
		return ""
	}
	return n.Where + ": "
}

// ofNetwork is an error that says of which network it is.
type ofNetwork struct {
	name string
	error
}

func (e ofNetwork) Unwrap() error { return e.error }

// about says of which network an error is, unless it does so itself.
func about(name string, err error) error {
	var said ofNetwork
	if errors.As(err, &said) && said.name == name {
		return err
	}
	return ofNetwork{name, fmt.Errorf("network %q: %w", name, err)}
}

// fault is an error of a network.
func (n Network) fault(format string, args ...any) error {
	return ofNetwork{n.Name, fmt.Errorf("%snetwork %q: %w", place(n), n.Name, fmt.Errorf(format, args...))}
}

// Validate finds mistakes in networks and between them, without a look at the host.
func Validate(networks []Network) error {
	var errs []error
	for i, n := range networks {
		errs = append(errs, n.validate()...)
		for _, o := range networks[:i] {
			errs = append(errs, n.besides(o))
		}
	}
	return errors.Join(errs...)
}

// validate finds what is wrong with one network.
func (n Network) validate() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, n.fault(format, args...)) }
	if !nameForm.MatchString(n.Name) || n.Name == string(Host) || n.Name == string(None) {
		fail("a name is 1 to 32 of a-z, 0-9 and -, a letter first, and not host or none")
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
		fail("mtu %d is not within 576 to 65535", n.MTU)
	}
	if n.MTU != 0 && n.MTU < 1280 && n.Subnet6.IsValid() {
		fail("mtu %d is less than the 1280 that IPv6 needs", n.MTU)
	}
	errs = append(errs, n.places()...)
	if !n.Subnet4.IsValid() && !n.Subnet6.IsValid() {
		fail("subnet4 or subnet6 is missing")
	}
	for _, f := range n.families() {
		if err := f.validate(n.Mode); err != nil {
			fail("%w", err)
		} else if f.subnet.IsValid() && n.size(f.pool) == 0 {
			fail("%s: no address is left for a task in %s: the prefix or the pool is too small", f.name, f.pool)
		}
	}
	return errs
}

// places finds what a mode needs, or what has no meaning in it.
func (n Network) places() (errs []error) {
	fail := func(format string, args ...any) { errs = append(errs, n.fault(format, args...)) }
	for name, text := range map[string]string{"bridge": n.Bridge, "interface": n.Interface} {
		if text != "" && !interfaceForm.MatchString(text) {
			fail("%s %q is not a name of an interface", name, text)
		}
	}
	switch n.Mode {
	case NAT:
		if n.Bridge != "" {
			fail("bridge is for mode bridged: freejail makes the bridge of nat itself")
		}
	case Bridged:
		if n.Bridge == "" {
			fail("bridge is missing: mode bridged needs the name of a bridge of this host")
		}
		if n.Interface != "" {
			fail("interface is for the modes nat and alias: bridged has bridge")
		}
	case Alias:
		if n.Interface == "" {
			fail("interface is missing: mode alias needs the name of an interface of this host")
		}
		if keys := n.ownKeys(); len(keys) > 0 {
			fail("%s: only for networks with a stack of their own, not for mode alias", strings.Join(keys, ", "))
		}
	case "":
		fail("mode is missing: nat, bridged or alias")
	default:
		fail("mode %q is not one of nat, bridged and alias", n.Mode)
	}
	if n.Mode == Alias && len(n.HostAccess) > 0 {
		fail("host_access is for networks with a stack of their own: tasks of mode alias are on the host's")
	}
	return errs
}

// ownKeys are the keys that a network has and that only those with a stack of their own can have.
func (n Network) ownKeys() (keys []string) {
	for _, k := range []struct {
		key string
		is  bool
	}{{"bridge", n.Bridge != ""}, {"gateway", n.Gateway4.IsValid() || n.Gateway6.IsValid()}, {"mtu", n.MTU != 0},
		{"isolate", n.Isolate}} {
		if k.is {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// family is what a network has of IPv4 or IPv6.
type family struct {
	name    string // of its subnet's key
	subnet  netip.Prefix
	pool    Range
	gateway netip.Addr
	bits    int // of an address
}

func (n Network) families() []family {
	return []family{{"subnet4", n.Subnet4, n.Pool4, n.Gateway4, 32}, {"subnet6", n.Subnet6, n.Pool6, n.Gateway6, 128}}
}

func (f family) validate(mode Mode) error {
	p := f.subnet
	if !p.IsValid() {
		if f.pool.First.IsValid() || f.gateway.IsValid() {
			return fmt.Errorf("%s is missing: there is a pool or gateway of this family", f.name)
		}
		return nil
	}
	a := p.Addr()
	special := a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified()
	switch {
	case a.BitLen() != f.bits || a.Is4In6() || a.Zone() != "":
		return fmt.Errorf("%s %s is not of this family", f.name, p)
	case p != p.Masked():
		return fmt.Errorf("%s %s has bits beyond its prefix (%s has none)", f.name, p, p.Masked())
	case special:
		return fmt.Errorf("%s %s is not of unicast addresses that tasks can have", f.name, p)
	case mode == NAT && p.Bits() > f.bits-2:
		return fmt.Errorf("%s %s is too small: a gateway and a task need at least a /%d", f.name, p, f.bits-2)
	}
	all := RangeOf(p)
	if r := f.pool; r.First.BitLen() == r.Last.BitLen() && r.First.Compare(r.Last) > 0 {
		return fmt.Errorf("pool %s: the first address is after the last", r)
	}
	if r := f.pool; !all.Contains(r.First) || !all.Contains(r.Last) {
		return fmt.Errorf("pool %s is not within %s %s", r, f.name, p)
	}
	return f.validGateway(mode, all)
}

// validGateway wants a gateway that tasks reach: in the subnet, but that a router of the operator's may
// have a link-local address.
func (f family) validGateway(mode Mode, all Range) error {
	g := f.gateway
	ends := f.subnet.Bits() < f.bits-1 && (g == all.First || g == all.Last && f.bits == 32)
	switch {
	case !g.IsValid() && mode == NAT:
		return fmt.Errorf("%s %s has no gateway", f.name, f.subnet)
	case !g.IsValid(), mode == Bridged && f.bits == 128 && g.IsLinkLocalUnicast() && g.Zone() == "":
		return nil
	case !all.Contains(g) || ends:
		return fmt.Errorf("gateway %s is not an address in %s %s", g, f.name, f.subnet)
	}
	return nil
}

// besides finds what two networks have in common and may not. Two of the operator's networks may be in
// one subnet, such as two pools of one interface.
func (n Network) besides(o Network) error {
	if n.Name == o.Name {
		return n.fault("there are two networks of this name, the other at %s", o.Where)
	}
	others := o.families()
	for i, f := range n.families() {
		other := others[i]
		if f.pool.overlaps(other.pool) {
			return n.fault("its pool %s overlaps %s of network %q", f.pool, other.pool, o.Name)
		}
		if (n.Mode == NAT || o.Mode == NAT) && f.subnet.IsValid() && other.subnet.IsValid() &&
			f.subnet.Overlaps(other.subnet) {
			return n.fault("%s %s overlaps %s of network %q", f.name, f.subnet, other.subnet, o.Name)
		}
	}
	return nil
}

// usable tells whether the host has what networks need, and remembers for a while that it has: all
// addresses of the host are listed for it, which not every start is to wait for.
type usable struct {
	stacks stacks
	filter filter
	now    func() time.Time

	looking keylock.Map // networks, by name

	mu   sync.Mutex
	seen map[string]time.Time // networks that were usable
}

// usableFor is how long a network is not looked at again.
const usableFor = time.Second

// check tells why a network cannot be used.
func (u *usable) check(n Network) error {
	if n.Mode == Host || n.Mode == None {
		return nil
	}
	unlock, err := u.looking.Lock(context.Background(), n.Name)
	if err != nil {
		return err
	}
	defer unlock()
	u.mu.Lock()
	at, ok := u.seen[n.Name]
	u.mu.Unlock()
	if ok && u.now().Sub(at) < usableFor {
		return nil
	}
	err = u.host(n)
	if err == nil && n.Mode == NAT {
		if err = u.filter.check(); err != nil {
			err = n.fault("%w", err)
		}
	}
	if err == nil {
		u.mu.Lock()
		u.seen[n.Name] = u.now()
		u.mu.Unlock()
	}
	return err
}

// forget has a network be looked at again.
func (u *usable) forget(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.seen, name)
}

// host tells what of the host, but for its packet filter, is against a network.
func (u *usable) host(n Network) error {
	list, err := u.stacks.addresses()
	if err != nil {
		return n.fault("addresses of the host: %w", err)
	}
	var errs []error
	for _, h := range list {
		errs = append(errs, n.against(h))
	}
	if err := u.stacks.check(n); err != nil {
		errs = append(errs, n.fault("%w", err))
	}
	return errors.Join(errs...)
}

// against tells whether an address of the host's has no place beside a network.
func (n Network) against(h hostAddress) error {
	if h.Ours || h.Addr().IsLoopback() || h.Addr().IsLinkLocalUnicast() {
		return nil
	}
	for _, f := range n.families() {
		switch {
		case !f.subnet.IsValid():
		case n.Mode == NAT && f.subnet.Overlaps(h.Masked()):
			return n.fault("%s %s overlaps the host's address %s of %s", f.name, f.subnet, h.Prefix, h.Interface)
		case f.pool.Contains(h.Addr()):
			return n.fault("its pool %s contains the host's address %s of %s", f.pool, h.Addr(), h.Interface)
		}
	}
	return nil
}
