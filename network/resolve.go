package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/regular"
)

// resolver is that of the host, as its resolv.conf says.
type resolver struct {
	file string
	port uint16
	skip atomic.Uint32 // how many servers have refused: the next is asked then
}

// dnsIdle is how long a question may wait for its answer: twice the default of res_config(5).
const dnsIdle = 10 * time.Second

// dnsLife is how long a connection may be used for questions: a task cannot keep one for nothing.
const dnsLife = 30 * time.Second

// resolve answers at the gateway of a network where the host's resolver listens on loopback, which is another one in
// a stack of its own, or at an address of one of the host's links. A program of the host that has the port at all
// addresses has it at loopback too: it is that resolver, and answers itself.
func (h *holder) resolve(n Network) error {
	servers, err := h.names.servers()
	if err != nil {
		return err
	}
	if len(n.DNS) > 0 || !slices.ContainsFunc(servers, hostAlone) {
		return nil
	}
	var list []wanted
	for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
		for _, protocol := range []string{"udp", "tcp"} {
			if gateway.IsValid() && n.allows(protocol, 53) {
				list = append(list, wanted{bound: bound{protocol, netip.AddrPortFrom(gateway, h.names.port)},
					target: h.names.of(n, h.asked)})
			}
		}
	}
	err = h.have(nameServer(n), list)
	if !errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, errOfTask) {
		return err
	}
	list = slices.DeleteFunc(list, func(w wanted) bool { return takenEverywhere(w.bound) })
	if err = h.have(nameServer(n), list); errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; if it is to answer this network's tasks, name the gateway in its dns", err)
	}
	return err
}

// nameServer is the key of what answers at the gateway of a network. No task has it.
func nameServer(n Network) string { return "the name server of network " + n.Name }

// serves tells whether tasks of a nat network reach a service of the host's at a place: it is never a task's.
func (n Network) serves(p bound) bool {
	at := p.at.Addr().WithZone("")
	return n.Mode == NAT && at.IsValid() && (at == n.Gateway4 || at == n.Gateway6) && n.allows(p.protocol, p.at.Port())
}

// Refused tells why a publication cannot be: at a gateway the ports of host_access are the host's own services,
// whatever network a task has, and a broadcast address is one of many hosts. What is published at all addresses of the
// host is not published there.
func Refused(p Publication, networks []Network) error {
	for _, n := range networks {
		if isBroadcast(p.At.Unmap(), n.Subnet4) {
			return notOfOne(p.At)
		}
		for i := range max(1, int(p.Count)) {
			place := bound{p.Protocol, netip.AddrPortFrom(p.At, p.First+uint16(i))}
			if n.serves(place) {
				return fmt.Errorf("port %s is at the gateway of network %s, where its tasks reach the host's own "+
					"services (host_access): publish it at another address of the host", place, n.Name)
			}
		}
	}
	return nil
}

// allows tells whether tasks of the network reach a port of the host's at its gateway.
func (n Network) allows(protocol string, port uint16) bool {
	return slices.ContainsFunc(n.HostAccess, func(p Port) bool {
		return p.Protocol == protocol && p.First <= port && int(port) < int(p.First)+max(1, int(p.Count))
	})
}

// of is the resolver as a target: of all addresses of a network, each with its own share.
func (r *resolver) of(n Network, s *share) target {
	return target{share: s, idle: dnsIdle, life: dnsLife, once: true,
		next:   func() (netip.AddrPort, error) { return r.choose(n) },
		from:   func(a netip.Addr) bool { return n.Subnet4.Contains(a) || n.Subnet6.Contains(a) },
		owner:  func(a netip.Addr) string { return "name server: " + a.String() },
		failed: func(netip.AddrPort) { r.skip.Add(1) }}
}

// hostAlone tells whether nobody but the host reaches a server at its address.
func hostAlone(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() }

// choose is the server that is asked for a network: one that the host alone reaches, where there is one still.
func (r *resolver) choose(n Network) (netip.AddrPort, error) {
	servers, err := r.servers()
	if err != nil {
		return netip.AddrPort{}, err
	}
	if slices.ContainsFunc(servers, hostAlone) {
		servers = slices.DeleteFunc(servers, func(a netip.Addr) bool { return !hostAlone(a) })
	}
	servers = slices.DeleteFunc(servers, func(a netip.Addr) bool { return a == n.Gateway4 || a == n.Gateway6 })
	if len(servers) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s has no name server but the gateway of network %s", r.file, n.Name)
	}
	return netip.AddrPortFrom(servers[int(r.skip.Load()%uint32(len(servers)))], r.port), nil
}

// maxResolver bounds resolv.conf, in bytes.
const maxResolver = 64 << 10

// servers are those of resolv.conf, and 127.0.0.1 where it has none, as resolver(5) has it.
func (r *resolver) servers() (list []netip.Addr, err error) {
	local := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	f, _, err := regular.Open(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return local, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := regular.Read(f, r.file, maxResolver)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		switch {
		case err != nil: // the system's resolver passes it over too
		case a.IsUnspecified() && a.Is4(): // this host
			list = append(list, local[0])
		case a.IsUnspecified():
			list = append(list, netip.IPv6Loopback())
		default:
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return local, nil
	}
	return list, nil
}
