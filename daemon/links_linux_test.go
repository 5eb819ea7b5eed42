package daemon

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

const officeConfig = `network "lan" {
  mode    = "bridged"
  bridge  = "fjtest0"
  subnet4 = "10.124.7.0/24"
  pool4   = "10.124.7.64/27"
  dns     = ["192.0.2.53"]
}
permit {
  networks = ["lan"]
  ports    = ["1-65535"]
}
`

// soon waits for what the daemon does by itself every other second.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("not seen: %s", what)
}

// problems are those that a network's list has.
func problems(t *testing.T, c *client.Client, name string) string {
	t.Helper()
	list, err := c.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.Name == name {
			return strings.Join(n.Problems, "\n")
		}
	}
	return "no such network"
}

// doctorSays tells whether a line of the report has all words.
func doctorSays(t *testing.T, c *client.Client, words ...string) bool {
	t.Helper()
	report, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range report {
		all, text := true, fmt.Sprint(check)
		for _, w := range words {
			all = all && strings.Contains(text, w)
		}
		if all {
			return true
		}
	}
	return false
}

// A task of a bridged network is reached again when its bridge was destroyed and made anew; events, the list of
// networks and doctor tell.
func TestBridgeThatComesBack(t *testing.T) {
	ownHost(t)
	sh := func(cmd string) {
		t.Helper()
		if out, err := exec.Command("sh", "-c", cmd).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", cmd, err, out)
		}
	}
	bridge := func() {
		t.Helper()
		sh("ip link add fjtest0 type bridge && ip addr add 10.124.7.1/24 dev fjtest0 && ip link set fjtest0 up")
	}
	bridge()
	c, _ := daemonAt(t, shortDir(t), officeConfig)
	task := begin(t, c, onLAN("b1", archive(t, answering)))
	at := task.Network.Addr4.String() + ":8080"
	if got, err := say(at); err != nil {
		t.Fatal(got, err)
	}
	sh("ip link del fjtest0")
	soon(t, "that it is gone", func() bool { return hasEvent(t, c, `"lan" is gone from its tasks (1 task)`, "fjtest0") })
	if p := problems(t, c, "lan"); !strings.Contains(p, "gone from its tasks (1 task)") {
		t.Errorf("listed: %s", p)
	}
	if !doctorSays(t, c, "network lan", "error", "gone from its tasks (1 task)", "ip link add fjtest0 type bridge") {
		t.Error("doctor is silent")
	}
	bridge()
	soon(t, "that it is back", func() bool { return hasEvent(t, c, `network "lan" is back (1 task)`) })
	if got, err := say(at); err != nil || problems(t, c, "lan") != "" {
		t.Errorf("%q: %v, listed: %s", got, err, problems(t, c, "lan"))
	}
	remove(t, c, "b1")
}
