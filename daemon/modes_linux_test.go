package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/freejail/freejail/daemon/client"
)

// Each mode gives a task what it is to have, and takes it back.
func TestTasksOfEachMode(t *testing.T) {
	ownHost(t)
	a := netlink.NewLinkAttrs()
	a.Name = "fjtestbr"
	bridge := &netlink.Bridge{LinkAttrs: a}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.LinkDel(bridge); err != nil {
			t.Error(err)
		}
	}()
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
		if addrs, err := netlink.AddrList(bridge, netlink.FAMILY_V4); err != nil || len(addrs) > 0 {
			t.Errorf("%s leaves %v %v", m.mode, addrs, err)
		}
	}
	for _, network := range []string{"wire", "host"} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "m2", Owner: "cli", Image: path, Network: network,
			Command: "answer"})
		if err == nil || !strings.Contains(err.Error(), "name one of none, office") {
			t.Errorf("an image that requires vnet on %s: %v", network, err)
		}
	}
	if l := links(t); len(l) != 1 {
		t.Errorf("interfaces: %v", l)
	}
}
