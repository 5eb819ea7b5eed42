package network

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// metadataServices are of each family; the outside answers there as a cloud does.
func (h *host) metadataServices() (services []netip.Addr) {
	h.Helper()
	for _, a := range []netip.Addr{metadata[0], wireServer, metadata[6]} {
		h.in(h.out, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, address(netip.PrefixFrom(a, a.BitLen()))))
		})
		h.serve(h.out, "tcp", at(a, 80), "credentials")
		h.serve(h.out, "tcp", at(a, 53), "names")
		services = append(services, a)
	}
	return services
}

// routed has the host reach addresses by the outside, from its own addresses there or from those that are given.
func (h *host) routed(services []netip.Addr, link string, from ...netip.Addr) {
	h.Helper()
	by, err := netlink.LinkByName(link)
	h.must(err)
	for i, a := range services {
		r := &netlink.Route{LinkIndex: by.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())),
			Gw: net.IP([]netip.Addr{outside4, outside4, outside6}[i].AsSlice())}
		if len(from) > 0 {
			r.Src = from[i].AsSlice()
		}
		h.must(netlink.RouteReplace(r))
	}
}

// Tasks do not reach the metadata services of clouds, but as name servers, unless their network lets them; the host
// itself does.
func TestMetadataIsKeptFromTasks(t *testing.T) {
	for _, open := range []bool{false, true} {
		asked := func(h *host, ns string, services []netip.Addr) {
			h.Helper()
			for _, a := range services {
				h.reach("a task", ns, "tcp", at(a, 53), "names")
				if open {
					h.reach("a task", ns, "tcp", at(a, 80), "credentials")
				} else {
					h.refused("a task", ns, "tcp", at(a, 80))
				}
			}
		}
		t.Run("nat", func(t *testing.T) {
			n := natNetwork("web", 1)
			n.Metadata = open
			h := newHost(t, n)
			task := *h.task(n, 10)
			services := h.metadataServices()
			h.routed(services, "up0")
			h.load()
			asked(h, h.ns(task), services)
			h.reach("the host", "", "tcp", at(services[0], 80), "credentials")
		})
		t.Run("bridged", func(t *testing.T) {
			n := bridgedNetwork()
			n.Metadata = open
			h := newHost(t, n)
			h.operatorsBridge()
			services := h.metadataServices()
			task := *h.task(n, 10)
			h.load()
			asked(h, h.ns(task), services)
		})
		t.Run("alias", func(t *testing.T) {
			n := aliasNetwork()
			n.Metadata = open
			h := newHost(t, n)
			e := aliasEndpoint(10)
			h.must(h.stacks.attach(n, e))
			h.tasks = append(h.tasks, Task{Key: "t10", Endpoint: e})
			services := h.metadataServices()
			h.routed(services, "up0")
			h.load()
			h.reach("the host", "", "tcp", at(services[0], 80), "credentials")
			h.routed(services, "up0", e.Addr4, e.Addr4, e.Addr6)
			asked(h, "", services)
		})
	}
}
