package network

import (
	"fmt"
	"net/netip"
	"testing"
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestTasksSideBySide(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	for i := range 2 {
		task := h.task(n, 10+i)
		for _, p := range []string{"tcp", "udp"} {
			h.serve(h.ns(*task), p, at(netip.IPv6Unspecified(), 8080), task.Key)
			task.Published = append(task.Published, Publication{Port: Port{p, uint16(8081 + i), 1}, To: 8080})
		}
	}
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		for i, task := range h.tasks {
			port := uint16(8081 + i)
			for _, a := range []netip.Addr{hostAddr4, hostAddr6} {
				h.reach("the host", "", p, at(a, port), task.Key)
				h.reach("the outside", h.out, p, at(a, port), task.Key)
				for _, from := range h.tasks {
					h.reach(from.Key, h.ns(from), p, at(a, port), task.Key)
				}
			}
			for _, a := range []netip.Addr{task.Addr4, task.Addr6} {
				h.reach("the host", "", p, at(a, 8080), task.Key)
				h.reach("the neighbour", h.ns(h.tasks[1-i]), p, at(a, 8080), task.Key)
				h.reach("itself", h.ns(task), p, at(a, 8080), task.Key)
			}
			for _, a := range []string{"127.0.0.1", "::1"} {
				h.reach("itself", h.ns(task), p, at(netip.MustParseAddr(a), 8080), task.Key)
			}
		}
	}
	for _, task := range h.tasks {
		h.must(h.stacks.detach(task.Endpoint))
		h.must(h.stacks.detach(task.Endpoint))
	}
	h.tasks = nil
	h.load()
	h.nothingLeft()
}

func TestNoneHasLoopbackAlone(t *testing.T) {
	h := newHost(t)
	task := h.task(Network{Name: "none", Mode: None}, 1)
	h.serve(h.ns(*task), "tcp", at(netip.IPv6Unspecified(), 8080), "own")
	for _, a := range []string{"127.0.0.1", "::1"} {
		h.reach("itself", h.ns(*task), "tcp", at(netip.MustParseAddr(a), 8080), "own")
	}
	h.refused("a task of none", h.ns(*task), "tcp", at(hostAddr4, 8080))
	h.must(h.stacks.detach(task.Endpoint))
	h.nothingLeft()
}

func TestAddressesAreTranslated(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	task := h.task(n, 10)
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		h.serve(h.out, p, at(netip.IPv6Unspecified(), 9000), "outside")
		for _, a := range []struct{ to, from netip.Addr }{{outside4, hostAddr4}, {outside6, hostAddr6}} {
			if from := h.reach("a task", h.ns(*task), p, at(a.to, 9000), "outside"); from != fmt.Sprint(a.from) {
				t.Errorf("the outside sees %s: want %s", from, a.from)
			}
		}
	}
}
