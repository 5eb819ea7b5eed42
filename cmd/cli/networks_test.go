package cli

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/daemon/client"
)

func TestPortInLists(t *testing.T) {
	for want, p := range map[string]client.Port{
		"web=:8080/tcp":                     {Name: "web", Port: 8080, Protocol: "tcp"},
		"web=10.0.0.5:8080/tcp":             {Name: "web", Address: "10.0.0.5", Port: 8080, Protocol: "tcp"},
		"web=10.0.0.5:8081->8080/tcp":       {Name: "web", Address: "10.0.0.5", Port: 8081, To: 8080, Protocol: "tcp"},
		"web=[::1]:80->8080/tcp":            {Name: "web", Address: "::1", Port: 80, To: 8080, Protocol: "tcp"},
		"web=8080/tcp":                      {Name: "web", To: 8080, Protocol: "tcp"},
		":5353->53/udp":                     {Name: "53-udp", Port: 5353, To: 53, Protocol: "udp"},
		"10.0.0.5:8000-8010->9000-9010/tcp": {Name: "9000-9010", Address: "10.0.0.5", Port: 8000, To: 9000, Count: 11, Protocol: "tcp"},
		"dns=10.0.0.5:53/udp":               {Name: "dns", Address: "10.0.0.5", Port: 53, To: 53, Protocol: "udp"},
	} {
		if got := psPort(&client.Task{}, p); got != want {
			t.Errorf("%+v: %s, want %s", p, got, want)
		}
	}
}

// A task that is reached at its own address shows its ports there.
func TestPortsAtOwnAddresses(t *testing.T) {
	web := client.Port{Name: "web", To: 8080, Protocol: "tcp"}
	n := &client.NetworkInfo{Name: "lan", Addr4: netip.MustParseAddr("10.88.0.2"), Addr6: netip.MustParseAddr("fd00::2")}
	for mode, want := range map[string]string{"nat": "web=8080/tcp", "bridged": "web=10.88.0.2:8080/tcp",
		"alias": "web=10.88.0.2:8080/tcp", "none": "web=8080/tcp"} {
		n.Mode = mode
		task := &client.Task{Network: n, Ports: []client.Port{web}}
		task.Spec.ID = "t"
		if got := psPort(task, web); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
		var b bytes.Buffer
		printPorts(&b, task, places(task), false)
		if got := b.String(); (got == "8080/tcp -> 10.88.0.2:8080\n8080/tcp -> [fd00::2]:8080\n") != strings.Contains(want, "10.") {
			t.Errorf("%s: %q", mode, got)
		}
	}
	again := web
	again.Name, again.Port = "8080.2", 81
	task := &client.Task{Network: n, Ports: []client.Port{web, again}}
	n.Mode = "nat"
	if got := onePort(places(task), "8080"); len(got) != 1 {
		t.Errorf("by its number: %+v", got)
	}
	if got := onePort(task.Ports, "web"); len(got) != 2 {
		t.Errorf("by its name: %+v", got)
	}
	for text, want := range map[string]string{"8080": "tasks of the network lan reach it at 10.88.0.2:8080",
		"8080/udp": "has no port 8080/udp; it has: 8080/tcp"} {
		if err := noPlace(task, text); !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestNetworkInLists(t *testing.T) {
	four, six := netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00:88::2")
	for want, n := range map[string]*client.NetworkInfo{
		"host": nil, "none": {Name: "none", Mode: "none"}, "web 10.88.0.2": {Name: "web", Addr4: four},
		"web 10.88.0.2 fd00:88::2": {Name: "web", Addr4: four, Addr6: six},
	} {
		if got := psNetwork(client.Task{Network: n}); got != want {
			t.Errorf("%+v: %s, want %s", n, got, want)
		}
	}
	row := networkRow(client.NetworkStatus{Name: "web", Mode: "nat", Subnets: []string{"10.88.0.0/24", "fd00:88::/64"},
		Used: 3, Size: 253, Default: true, Tasks: []string{"a", "b"}})
	for i, want := range []string{"web (default)", "nat", "10.88.0.0/24,fd00:88::/64", "3 of 253", "2"} {
		if row[i] != want {
			t.Errorf("%q, want %q", row[i], want)
		}
	}
}

const missingBridge = "network \"office\" {\n  mode    = \"bridged\"\n  bridge  = \"fjnothere\"\n" +
	"  subnet4 = \"192.0.2.0/24\"\n}\n"

// A fault of the host fails the check, and keeps a daemon neither from starting nor from its upgrade. A mistake
// in the file does.
func TestUpgradeWithAFaultOfTheHost(t *testing.T) {
	h := newHost(t, missingBridge)
	const fault = `freejail.hcl:2: network "office": `
	config := h.path("freejail.hcl")
	h.gives(daemon.ExitFault, []string{fault, "fjnothere", "starts all the same"}, "daemon", "--check", "--config", config)
	before := decoded[client.Info](h, "daemon", "--upgrade")
	r := h.freejail("daemon", "--upgrade")
	if r.code != 0 || !strings.Contains(r.errout, "office cannot be used: "+fault) {
		t.Errorf("upgrade: %+v", r)
	}
	check(t, syscall.Kill(before.PID, syscall.SIGHUP))
	for log := ""; strings.Count(log, "upgrading in place") < 3; log = h.read("log") {
		if strings.Contains(log, "no upgrade") {
			t.Fatal(log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.gives(0, []string{"not usable: " + fault}, "events")
	text := h.read("freejail.hcl")
	check(t, os.WriteFile(config, []byte(strings.Replace(text, "192.0.2.0/24", "192.0.2.1/24", 1)), 0o600))
	h.gives(app.Failed, []string{"has bits beyond its prefix"}, "daemon", "--check", "--config", config)
	h.gives(app.Failed, []string{"no upgrade", "has bits beyond its prefix"}, "daemon", "--upgrade")
	check(t, os.WriteFile(config, []byte(text), 0o600))
}
