package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestHeldPortWithoutRules asks for a task's port from everywhere while the host has no rules, and then with
// them: what holds the port leads the host alone on.
func TestHeldPortWithoutRules(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	holder := testHolder(t)
	task := h.task(n, 10, Port{"tcp", 8080, 1}, Port{"udp", 8080, 1})
	everywhere := []netip.Addr{hostAddr4, hostAddr6, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	for _, p := range []string{"tcp", "udp"} {
		h.serve(h.ns(*task), p, at(netip.IPv6Unspecified(), 8080), "t10")
		task.Published = append(task.Published, Publication{Port: Port{p, 8081, 2}, To: 8080})
	}
	h.must(holder.hold(*task))
	for _, p := range []string{"tcp", "udp"} {
		for _, a := range everywhere {
			h.reach("the host", "", p, at(a, 8081), "t10")
		}
		for _, a := range everywhere[:2] {
			h.refused("the outside", h.out, p, at(a, 8081))
			h.refused("a task", h.ns(*task), p, at(a, 8081))
		}
	}
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		for _, a := range everywhere {
			h.reach("the host", "", p, at(a, 8081), "t10")
		}
		for _, a := range everywhere[:2] {
			h.reach("the outside", h.out, p, at(a, 8081), "t10")
			h.reach("a task", h.ns(*task), p, at(a, 8081), "t10")
		}
	}
}

// TestTasksAskTheHostsResolver has one that listens on loopback alone.
func TestTasksAskTheHostsResolver(t *testing.T) {
	n := natNetwork("web", 1)
	n.HostAccess = []Port{{"udp", 53, 1}, {"tcp", 53, 1}}
	h := newHost(t, n)
	task, holder := *h.task(n, 10), testHolder(t)
	holder.names.file = filepath.Join(t.TempDir(), "resolv.conf")
	h.must(os.WriteFile(holder.names.file, []byte("nameserver 127.0.0.53\n"), 0o600))
	h.load()
	h.must(holder.resolve(n))
	for _, p := range []string{"tcp", "udp"} {
		h.serve("", p, at(netip.MustParseAddr("127.0.0.53"), 53), "resolver")
		for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
			if from := h.reach("a task", h.ns(task), p, at(gateway, 53), "resolver"); from != "127.0.0.1" {
				t.Errorf("the resolver sees %s", from)
			}
		}
		h.refused("the outside", h.out, p, at(hostAddr4, 53))
		h.refused("a task by another address of the host", h.ns(task), p, at(hostAddr4, 53))
	}
}

// TestNobodyAnswersForTheGateway has a task of another network publish the ports at which a gateway answers, by
// all addresses and by that one.
func TestNobodyAnswersForTheGateway(t *testing.T) {
	n, other := natNetwork("web", 1), natNetwork("other", 2)
	n.HostAccess = []Port{{"udp", 53, 1}, {"tcp", 53, 1}}
	h := newHost(t, n, other)
	task := *h.task(n, 10)
	bad := h.task(other, 20)
	for _, p := range []string{"tcp", "udp"} {
		h.serve(h.ns(*bad), p, at(netip.IPv6Unspecified(), 8080), "bad")
		for _, a := range []netip.Addr{n.Gateway4, n.Gateway6, {}} {
			bad.Published = append(bad.Published, Publication{At: a, Port: Port{p, 50, 8}, To: 8080 - 3})
		}
	}
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		for _, a := range []netip.Addr{n.Gateway4, n.Gateway6} {
			h.refused("a task", h.ns(task), p, at(a, 53))
			h.serve("", p, at(a, 53), "host")
			h.reach("a task", h.ns(task), p, at(a, 53), "host")
			h.reach("the host", "", p, at(a, 53), "host")
		}
		for _, a := range []netip.Addr{hostAddr4, hostAddr6, n.Gateway4} {
			if a != n.Gateway4 {
				h.reach("a task", h.ns(task), p, at(a, 53), "bad")
			}
			h.refused("a task", h.ns(task), p, at(a, 52)) // nobody listens there
		}
	}
}
