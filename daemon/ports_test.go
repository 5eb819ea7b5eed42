package daemon

import (
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// One port on two addresses of the host is two tasks'; on all addresses it is
// none's then, also after a restart of the daemon.
func TestOnePortOfTwoAddresses(t *testing.T) {
	dir := shortDir(t)
	const permit = "permit {\n  ports = [\"8080\"]\n}\n"
	c, stop := daemonAt(t, dir, permit)
	path := archive(t, `{"schemaVersion":1,"ports":[{"name":"web","port":8080}]}`)
	start := func(id, address string) error {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path,
			Ports: map[string]client.PortBinding{"web": {Address: address, Port: 8080}}})
		return err
	}
	second := map[string]string{"linux": "127.0.0.2", "freebsd": "::1"}[runtime.GOOS] // that a host has by itself
	for id, address := range map[string]string{"one": "127.0.0.1", "two": second} {
		if err := start(id, address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	stop(killed)
	c, _ = daemonAt(t, dir, permit)
	for _, address := range []string{second, "0.0.0.0", "::", ""} {
		if err := start("bad", address); err == nil || !strings.Contains(err.Error(), "is taken on this host by task") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, id := range []string{"one", "two"} {
		if err := c.Destroy(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
	if err := start("all", ""); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(t.Context(), "all", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}

// What cannot be bound on any host, or not on this one, is told as such.
func TestFaultyPortsAndLimits(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "permit {\n  ports = [\"1-65535\"]\n}\n")
	path := archive(t, `{"schemaVersion":1,"ports":[{"name":"web","port":8080}]}`)
	for want, spec := range map[string]client.TaskSpec{
		"web = 99999 is not a valid port (1 to 65535)": {
			Ports: map[string]client.PortBinding{"web": {Port: 99999}}},
		"web = -1 is not a valid port (1 to 65535)": {Ports: map[string]client.PortBinding{"web": {Port: -1}}},
		"192.0.2.1 is not an address of this host": {
			Ports: map[string]client.PortBinding{"web": {Address: "192.0.2.1", Port: 8080}}},
		"the number of processes -1 is negative": {Limits: client.Limits{MaxProcs: -1}},
	} {
		spec.ID, spec.Owner, spec.Image = "faulty", "cli", path
		if _, err := c.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
