package networks

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// TestTwoTasksOnOnePort has tasks of one image listen on one port, and each be reached at the port of the host that
// leads to it: from outside, from the host, from a neighbour and from itself, by IPv4 and IPv6, TCP and UDP.
func TestTwoTasksOnOnePort(t *testing.T) {
	h := newHost(t)
	tasks := map[string]*client.Task{}
	for name, port := range map[string]string{"one": "18081", "two": "18082"} {
		tasks[name] = h.task(t, name, "lan", publish(t, port+":8080", port+":8080/udp"), "8080")
	}
	for name, port := range map[string]string{"one": "18081", "two": "18082"} {
		for _, protocol := range []string{"tcp", "udp"} {
			for _, a := range []string{hostAddr4, "[" + hostAddr6 + "]"} {
				address := a + ":" + port
				reached(t, "outside, "+protocol+" "+address, name)(outside("ask", protocol, address))
				reached(t, "the host, "+protocol+" "+address, name)(here("ask", protocol, address))
				for _, from := range tasks {
					reached(t, from.Spec.ID+", "+protocol+" "+address, name)(h.in(t, from, "ask", protocol, address))
				}
			}
			for _, a := range []string{"127.0.0.1", "[::1]"} {
				reached(t, "the host, "+protocol+" "+a, name)(here("ask", protocol, a+":"+port))
			}
		}
	}
	one, two := tasks["one"].Network, tasks["two"].Network
	if one.Addr4 == two.Addr4 || one.Addr6 == two.Addr6 || one.MAC == two.MAC {
		t.Errorf("both have the same: %+v %+v", one, two)
	}
	for _, a := range []netip.Addr{two.Addr4, two.Addr6} {
		reached(t, "a neighbour at "+a.String(), "two")(h.in(t, tasks["one"], "ask", "tcp", at(a, "8080")))
	}
}

// TestRangesArePublished has each port of a range lead to the one of the same place.
func TestRangesArePublished(t *testing.T) {
	h := newHost(t)
	h.task(t, "many", "lan", publish(t, "18100-18109:9000-9009", "127.0.0.1:18200:9005"), "9000", "9009", "9005")
	for _, port := range []string{"18100", "18105", "18109"} {
		reached(t, "outside at "+port, "many")(outside("ask", "tcp", hostAddr4+":"+port))
		reached(t, "the host at "+port, "many")(here("ask", "tcp", "127.0.0.1:"+port))
	}
	reached(t, "localhost alone", "many")(here("ask", "tcp", "127.0.0.1:18200"))
	unreached(t, "outside, at the port of localhost")(outside("ask", "tcp", hostAddr4+":18200"))
}

// TestModes has a task of each mode that is reached at an address of its own.
func TestModes(t *testing.T) {
	h := newHost(t)
	for _, network := range []string{"office", "front"} {
		task := h.task(t, network, network, nil, "8080")
		address := at(task.Network.Addr4, "8080")
		reached(t, "outside, "+network, network)(outside("ask", "tcp", address))
		reached(t, "the host, "+network, network)(here("ask", "tcp", address))
	}
	none := h.task(t, "none", "none", nil, "8080")
	reached(t, "its own loopback", "none")(h.in(t, none, "ask", "tcp", "127.0.0.1:8080"))
	reached(t, "its own loopback, IPv6", "none")(h.in(t, none, "ask", "tcp", "[::1]:8080"))
	for _, a := range []string{hostAddr4, outAddr4, "10.188.0.1"} {
		unreached(t, "loopback alone, at "+a)(h.in(t, none, "ask", "tcp", a+":8080"))
	}
}

// TestLedPorts has ports of the host that a scheduler chose lead to tasks which are reached at addresses of their own,
// too: from outside, from the host and from tasks of each network; and nobody else has them until the task ends.
func TestLedPorts(t *testing.T) {
	h := newHost(t)
	lead := func(port int) func(*client.TaskSpec) {
		return func(s *client.TaskSpec) {
			s.Ports = map[string]client.PortBinding{
				"http": {Address: hostAddr4, Port: port, Label: "http", To: 8080},
				"echo": {Address: hostAddr4, Port: port, Label: "echo", To: 8080, Protocol: "udp"}}
		}
	}
	tasks := map[string]*client.Task{"lan": h.task(t, "lan", "lan", lead(20301), "8080"),
		"office": h.task(t, "office", "office", lead(20302), "8080"),
		"front":  h.task(t, "front", "front", lead(20303), "8080")}
	all := func() {
		t.Helper()
		for i, name := range []string{"lan", "office", "front"} {
			address := fmt.Sprintf("%s:%d", hostAddr4, 20301+i)
			for _, protocol := range []string{"tcp", "udp"} {
				reached(t, "outside, "+protocol+" "+address, name)(outside("ask", protocol, address))
				reached(t, "the host, "+protocol+" "+address, name)(here("ask", protocol, address))
				for _, from := range tasks {
					reached(t, from.Spec.ID+", "+protocol+" "+address, name)(h.in(t, from, "ask", protocol, address))
				}
			}
		}
	}
	all()
	h.kill(t)
	h.start(t)
	all()
	spec := client.TaskSpec{Network: "lan"}
	lead(20302)(&spec)
	if said := h.refusal(t, spec); !strings.Contains(said, "taken on this host by task "+tasks["office"].Spec.ID) {
		t.Error(said)
	}
	check(t, h.Destroy(t.Context(), tasks["office"].Spec.ID, true))
	unreached(t, "a port of nobody")(here("ask", "tcp", hostAddr4+":20302"))
	h.task(t, "next", "lan", lead(20302), "8080")
}

// TestToOutside has what a task of a nat network sends come from the host, and never from an address of the network.
func TestToOutside(t *testing.T) {
	h := newHost(t)
	task := h.task(t, "client", "lan", nil, "8080")
	cmd := onOther(self("serve", "out", "7100")...)
	check(t, cmd.Start())
	t.Cleanup(func() {
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	await(t, "the other machine to serve", func() error {
		_, err := here("ask", "tcp", outAddr4+":7100")
		return err
	})
	for a, want := range map[string]string{outAddr4: hostAddr4 + ":", "[" + outAddr6 + "]": "[" + hostAddr6 + "]:"} {
		for _, protocol := range []string{"tcp", "udp"} {
			answer, err := h.in(t, task, "ask", protocol, a+":7100")
			if err != nil || !strings.HasPrefix(answer, "out "+want) {
				t.Errorf("%s to %s: %q %v, want it from %s", protocol, a, answer, err, want)
			}
		}
	}
}

// TestAddressesStay has a living task keep its addresses, its MAC and its ports over the end of a daemon, by a kill
// and by an upgrade.
func TestAddressesStay(t *testing.T) {
	h := newHost(t)
	task := h.task(t, "stays", "lan", publish(t, "18081:8080"), "8080")
	h.kill(t)
	h.start(t)
	again, err := h.Task(t.Context(), task.Spec.ID)
	check(t, err)
	if *again.Network != *task.Network {
		t.Errorf("it had %+v, and has %+v", task.Network, again.Network)
	}
	for what, ask := range map[string]func() (string, error){
		"outside":  func() (string, error) { return outside("ask", "tcp", hostAddr4+":18081") },
		"the host": func() (string, error) { return here("ask", "tcp", "127.0.0.1:18081") }} {
		await(t, what+" to reach it again", func() error {
			if out, err := ask(); err != nil || !strings.HasPrefix(out, "stays ") {
				return fmt.Errorf("%q %w", out, err)
			}
			return nil
		})
	}
	_, err = h.Upgrade(t.Context(), client.UpgradeRequest{})
	check(t, err)
	reached(t, "the host, after an upgrade", "stays")(here("ask", "tcp", "127.0.0.1:18081"))
	if again, err = h.Task(t.Context(), task.Spec.ID); err != nil || *again.Network != *task.Network {
		t.Errorf("it had %+v, and has %+v: %v", task.Network, again, err)
	}
}
