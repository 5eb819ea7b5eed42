package networks

import (
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// TestWhatIsNotDeclaredIsNotReached tries ports from outside a network, and from another network.
func TestWhatIsNotDeclaredIsNotReached(t *testing.T) {
	h := newHost(t)
	victim := h.task(t, "victim", "lan", publish(t, "18081:8080"), "8080", "9090")
	stranger := h.task(t, "stranger", "other", nil, "8080")
	neighbour := h.task(t, "neighbour", "lan", nil, "8080")
	for _, a := range []string{at(victim.Network.Addr4, ""), at(victim.Network.Addr6, "")} {
		for _, protocol := range []string{"tcp", "udp"} {
			unreached(t, "outside at a port that was not declared")(outside("ask", protocol, a+"9090"))
			unreached(t, "another network at such a port")(h.in(t, stranger, "ask", protocol, a+"9090"))
		}
		reached(t, "a neighbour", "victim")(h.in(t, neighbour, "ask", "tcp", a+"9090"))
	}
	reached(t, "another network, at the published port", "victim")(h.in(t, stranger, "ask", "tcp", hostAddr4+":18081"))
	unreached(t, "at the host's port of what was not declared")(outside("ask", "tcp", hostAddr4+":9090"))
}

// TestIsolated has the tasks of an isolated network reach each other by published ports alone, and the host by what
// its network allows.
func TestIsolated(t *testing.T) {
	h := newHost(t)
	one := h.task(t, "one", "closed", publish(t, "18081:8080"), "8080", "9090")
	two := h.task(t, "two", "closed", nil, "8080")
	for _, port := range []string{"8080", "9090"} {
		unreached(t, "a neighbour's "+port)(h.in(t, two, "ask", "tcp", at(one.Network.Addr4, port)))
		unreached(t, "a neighbour's "+port+" by udp")(h.in(t, two, "ask", "udp", at(one.Network.Addr4, port)))
	}
	reached(t, "a neighbour's published port", "one")(h.in(t, two, "ask", "tcp", hostAddr4+":18081"))
	reached(t, "its own published port", "one")(h.in(t, one, "ask", "tcp", hostAddr4+":18081"))
}

// TestTheHostsServicesAreItsOwn has the host serve at all of its addresses, and tasks try them.
func TestTheHostsServicesAreItsOwn(t *testing.T) {
	h := newHost(t)
	cmd := command(self("serve", "host", "7000", "7001")...)
	check(t, cmd.Start())
	t.Cleanup(func() {
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	await(t, "the host to serve", func() error {
		_, err := here("ask", "tcp", "127.0.0.1:7001")
		return err
	})
	lan, closed := h.task(t, "lan", "lan", nil, "8080"), h.task(t, "closed", "closed", nil, "8080")
	for _, a := range []string{"10.188.0.1", hostAddr4, officeHost, "[fd00:188::1]", "[" + hostAddr6 + "]"} {
		for _, protocol := range []string{"tcp", "udp"} {
			unreached(t, "the host's service at "+a)(h.in(t, lan, "ask", protocol, a+":7000"))
		}
	}
	unreached(t, "the host's service at the gateway")(h.in(t, closed, "ask", "tcp", "10.190.0.1:7000"))
	reached(t, "what the network allows", "host")(h.in(t, closed, "ask", "tcp", "10.190.0.1:7001"))
	unreached(t, "the same by udp")(h.in(t, closed, "ask", "udp", "10.190.0.1:7001"))
	unreached(t, "the same at another address")(h.in(t, closed, "ask", "tcp", hostAddr4+":7001"))
}

// TestAddressesAreGiven has a job ask for addresses that it may not have, whatever the policy permits.
func TestAddressesAreGiven(t *testing.T) {
	h := newHost(t)
	fixed := func(network string, addresses ...string) client.TaskSpec {
		return client.TaskSpec{Network: network, Addresses: addresses}
	}
	has := h.task(t, "has", "lan", func(s *client.TaskSpec) {
		s.Addresses = []string{"10.188.0.77", "fd00:188::77"}
	}, "8080")
	if has.Network.Addr4.String() != "10.188.0.77" || has.Network.Addr6.String() != "fd00:188::77" {
		t.Errorf("it has %+v", has.Network)
	}
	for what, spec := range map[string]client.TaskSpec{
		"the gateway's":             fixed("lan", "10.188.0.1"),
		"the gateway's of IPv6":     fixed("lan", "fd00:188::1"),
		"the network's":             fixed("lan", "10.188.0.0"),
		"the broadcast's":           fixed("lan", "10.188.3.255"),
		"the host's":                fixed("lan", hostAddr4),
		"another network's":         fixed("lan", "10.189.0.7"),
		"another task's":            fixed("lan", "10.188.0.77"),
		"another task's of IPv6":    fixed("lan", "fd00:188::77"),
		"two of one family":         fixed("lan", "10.188.0.7", "10.188.0.8"),
		"the host's, on its link":   fixed("front", hostAddr4),
		"outside the pool":          fixed("office", "203.0.113.7"),
		"in the host's network":     fixed("host", hostAddr4),
		"in the network none":       fixed("none", "127.0.0.2"),
		"another form of a task's":  fixed("lan", "::ffff:10.188.0.77"),
		"of a network that is none": fixed("lab"),
	} {
		t.Log(what, ": ", h.refusal(t, spec))
	}
	reached(t, "the task that has the address", "has")(h.in(t, has, "ask", "tcp", "10.188.0.77:8080"))
}

// raw lets a task have raw sockets.
func raw(s *client.TaskSpec) { s.Wants.Allow = []string{"raw_sockets"} }

// TestForgedSources has a task with raw sockets send packets from the addresses of others.
func TestForgedSources(t *testing.T) {
	h := newHost(t)
	victim := h.task(t, "victim", "lan", publish(t, "18081:8080/udp"), "8080")
	friend := h.task(t, "friend", "lan", nil, "8080")
	attacker := h.task(t, "attacker", "lan", raw, "8080")
	to := at(victim.Network.Addr4, "8080")
	if out, err := h.in(t, attacker, "forge", at(attacker.Network.Addr4, "4000"), to, "honest"); err != nil {
		t.Fatalf("raw sockets are permitted: %s %v", out, err)
	}
	await(t, "the honest packet", func() error { return contains(h.log(t, victim.Spec.ID), "got honest") })
	for source, text := range map[string]string{at(friend.Network.Addr4, "4000"): "neighbour",
		"10.188.0.1:4000": "forged", "127.0.0.1:4000": "forged", hostAddr4 + ":4000": "forged",
		outAddr4 + ":4000": "forged", "10.189.0.9:4000": "forged"} {
		// That the kernel refuses it in the task is as well.
		_, _ = h.in(t, attacker, "forge", source, to, text)
		_, _ = h.in(t, attacker, "forge", source, hostAddr4+":18081", text)
	}
	_, err := h.in(t, attacker, "forge", at(attacker.Network.Addr4, "4000"), to, "last")
	check(t, err)
	await(t, "the last packet", func() error { return contains(h.log(t, victim.Spec.ID), "got last") })
	text := h.log(t, victim.Spec.ID)
	if strings.Contains(text, "forged") {
		t.Errorf("packets from others' addresses arrive: %s", text)
	}
	if strings.Contains(text, "got neighbour") && !neighboursCanBeForged {
		t.Errorf("packets from a neighbour's address arrive: %s", text)
	}
}

// TestNeighboursKeepTheirAddresses has a task take addresses, and say on its link that they are its own.
func TestNeighboursKeepTheirAddresses(t *testing.T) {
	h := newHost(t)
	victim := h.task(t, "victim", "lan", publish(t, "18081:8080"), "8080")
	attacker := h.task(t, "attacker", "lan", raw, "8080")
	friend := h.task(t, "friend", "lan", nil, "8080")
	for _, address := range []string{"10.188.0.1", victim.Network.Addr4.String()} {
		for _, args := range [][]string{{"take", "eth0", address + "/32"}, {"take", "eth0", address + "/22"},
			{"claim", address}} {
			out, err := h.in(t, attacker, args...)
			t.Logf("%s: %s%v", args, out, err)
			if args[0] == "take" && err == nil {
				t.Errorf("the task has given itself %s", address)
			}
		}
	}
	for _, address := range []string{"fd00:188::1/128", victim.Network.Addr6.String() + "/64"} {
		if _, err := h.in(t, attacker, "take", "eth0", address); err == nil {
			t.Errorf("the task has given itself %s", address)
		}
	}
	to6 := at(victim.Network.Addr6, "8080")
	reached(t, "a neighbour by IPv6, before", "victim")(h.in(t, friend, "ask", "tcp", to6))
	out, err := h.in(t, attacker, "advertise", victim.Network.Addr6.String(), "fe80::1", "fd00:188::1")
	t.Logf("advertise: %s%v", out, err)
	reached(t, "a neighbour by IPv6, after", "victim")(h.in(t, friend, "ask", "tcp", to6))
	reached(t, "a neighbour", "victim")(h.in(t, friend, "ask", "tcp", at(victim.Network.Addr4, "8080")))
	reached(t, "outside", "victim")(outside("ask", "tcp", hostAddr4+":18081"))
	reached(t, "the published port from a task", "victim")(h.in(t, friend, "ask", "tcp", "10.188.0.1:18081"))
	// A task without the permission has no raw sockets, in a stack of its own too.
	for _, args := range [][]string{{"forge", "10.188.0.1:1", "10.188.0.2:1", "x"}, {"claim", "10.188.0.1"},
		{"advertise", "fd00:188::1", "fe80::1"}} {
		if out, err := h.in(t, friend, args...); err == nil {
			t.Errorf("%s without raw sockets: %s", args, out)
		}
	}
}

// TestLinksAreTasksOwn has no two tasks have a MAC or a link, and every MAC be one that is locally administered.
func TestLinksAreTasksOwn(t *testing.T) {
	h := newHost(t)
	var macs, links []string
	for _, name := range []string{"one", "two", "three"} {
		n := h.task(t, name, "lan", nil, "8080").Network
		if !strings.HasPrefix(n.MAC, "02:") || slices.Contains(macs, n.MAC) || slices.Contains(links, n.Link) {
			t.Errorf("%s has the MAC %s, the link %s; others %v, %v", name, n.MAC, n.Link, macs, links)
		}
		macs, links = append(macs, n.MAC), append(links, n.Link)
	}
}
