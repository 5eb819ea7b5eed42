package daemon

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// Each mode gives a task what it is to have, and takes it back.
func TestTasksOfEachMode(t *testing.T) {
	ownHost(t)
	makeBridge(t, "fjtestbr")
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, `network "office" {
  mode    = "bridged"
  subnet4 = "10.124.1.0/24"
  bridge  = "fjtestbr"
}
network "wire" {
  mode      = "alias"
  subnet4   = "10.125.1.0/24"
  interface = "fjtestbr"
}
default_network = "office"
permit {
  networks = ["*"]
  ports    = ["8080"]
  vnet     = true
}
`)
	path := archive(t, `{"schemaVersion":1,"ports":[{"name":"web","port":8080}],"requires":{"vnet":true}}`)
	plain := archive(t, answering)
	for _, m := range []struct{ network, path, mode, address string }{
		{"", path, "bridged", "10.124.1."}, {"wire", plain, "alias", "10.125.1."}, {"none", path, "none", ""}} {
		spec := client.TaskSpec{ID: "m1", Owner: "cli", Image: m.path, Network: m.network, Command: "answer"}
		i := begin(t, c, spec)
		if i.Network == nil || i.Network.Mode != m.mode || i.Network.Addr4.IsValid() != (m.address != "") ||
			m.address != "" && !strings.HasPrefix(i.Network.Addr4.String(), m.address) {
			t.Errorf("%s: %+v", m.mode, i.Network)
		}
		if m.mode == "alias" {
			if got, err := say(i.Network.Addr4.String() + ":8080"); err != nil || got != i.Network.Addr4.String() {
				t.Errorf("%s: %q %v", m.mode, got, err)
			}
		}
		if err := c.Destroy(t.Context(), "m1", true); err != nil {
			t.Error(err)
		}
		nothingLeft(t, dir)
		if addrs := addressesOf(t, "fjtestbr"); len(addrs) > 0 {
			t.Errorf("%s leaves %v", m.mode, addrs)
		}
	}
	for _, network := range []string{"wire", "host"} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "m2", Owner: "cli", Image: path, Network: network,
			Command: "answer"})
		if err == nil || !strings.Contains(err.Error(), "name one of none, office") {
			t.Errorf("an image that requires vnet on %s: %v", network, err)
		}
	}
	if l := links(t); len(l) > 0 {
		t.Errorf("interfaces: %v", l)
	}
}

// addressesOf are the IPv4 addresses of an interface.
func addressesOf(t *testing.T, name string) (out []netip.Prefix) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all, err := link.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if p := netip.MustParsePrefix(a.String()); p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}
