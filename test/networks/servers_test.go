package networks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

const corefile = `.:53 {
  errors
  hosts {
    10.188.0.10 caddy.test
    fd00:188::10 caddy.test
    10.188.0.11 nats.test
  }
}
`

// TestRealPrograms has Caddy, NATS and CoreDNS serve in stacks of their own, and another task find them by their names.
func TestRealPrograms(t *testing.T) {
	dir := os.Getenv("SERVERS_DIR")
	server := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"caddy", "nats-server", "coredns"} {
		if _, err := os.Stat(server(name)); dir == "" || err != nil {
			t.Skipf("%s is not there, in SERVERS_DIR (`make test` builds it): %v", name, err)
		}
	}
	h := newHost(t)
	run := func(name, program string, address []string, ports []string, args ...string) *client.Task {
		h.load(t, testimage.Spec{Name: name, Cmd: []string{"idle"},
			Programs: map[string]string{"/bin/" + name: server(program)}, Files: map[string]string{"/etc/Corefile": corefile}, Exposed: ports})
		spec := client.TaskSpec{ID: id(name), Owner: "cli", Image: name, Network: "lan", Addresses: address,
			Entrypoint: append([]string{"/bin/" + name}, args...), Env: map[string]string{"HOME": "/tmp"}}
		if name == "caddy" {
			publish(t, "18080:8080")(&spec)
		}
		i, err := h.Start(t.Context(), spec)
		check(t, err)
		return i
	}
	servers := []*client.Task{
		run("caddy", "caddy", []string{"10.188.0.10", "fd00:188::10"}, []string{"8080/tcp"}, "respond",
			"--listen", ":8080", "hello from caddy"),
		run("nats", "nats-server", []string{"10.188.0.11"}, []string{"4222/tcp"}, "-p", "4222"),
		run("coredns", "coredns", []string{"10.188.0.12"}, []string{"53/udp", "53/tcp"}, "-conf", "/etc/Corefile")}
	asks := h.task(t, "asks", "lan", func(s *client.TaskSpec) {
		s.DNS = &client.DNS{Servers: []string{"10.188.0.12"}}
	}, "8080")
	extra := h.task(t, "extra", "other", func(s *client.TaskSpec) {
		s.ExtraHosts = []string{"web.test:" + hostAddr4}
	}, "8080")
	for what, c := range map[string]struct {
		from *client.Task
		args []string
		want string
	}{
		"the name in CoreDNS":               {asks, []string{"names", "nats.test"}, "10.188.0.11"},
		"Caddy by its name":                 {asks, []string{"fetch", "http://caddy.test:8080/"}, "hello from caddy"},
		"Caddy by IPv6":                     {asks, []string{"fetch", "http://[fd00:188::10]:8080/"}, "hello from caddy"},
		"NATS by its name":                  {asks, []string{"nats", "nats.test:4222"}, "PONG"},
		"Caddy by a line of the hosts file": {extra, []string{"fetch", "http://web.test:18080/"}, "hello from caddy"},
	} {
		await(t, what, func() error {
			out, err := h.in(t, c.from, c.args...)
			if err == nil {
				err = contains(out, c.want)
			}
			return err
		})
	}
	out, err := outside("fetch", "http://"+hostAddr4+":18080/")
	if err != nil || !strings.Contains(out, "hello from caddy") {
		t.Errorf("Caddy from outside: %q %v", out, err)
	}
	if t.Failed() {
		for _, s := range servers {
			t.Log(h.log(t, s.Spec.ID))
		}
	}
}
