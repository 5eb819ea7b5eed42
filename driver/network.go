package driver

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// shareGroup has all tasks of an allocation in one network stack.
const shareGroup = "group"

// Modes of networks, as a daemon tells them.
const (
	modeBridged = "bridged"
	modeAlias   = "alias"
)

// network tells Nomad where a task with an address of its own is, and its ports. Services show that
// address where others than this host reach it; else they show the ports of the host. Without one
// there is nothing to tell: address_mode = "driver" is an error of Nomad's then.
func network(t *client.Task) *proto.NetworkOverride {
	own := netip.Addr{}
	if t.Network != nil {
		own = cmp.Or(t.Network.Addr4, t.Network.Addr6)
	}
	if !own.IsValid() {
		return nil
	}
	n := &proto.NetworkOverride{Addr: own.String(), PortMap: map[string]int32{},
		AutoAdvertise: t.Network.Mode == modeBridged || t.Network.Mode == modeAlias}
	for _, p := range t.Ports {
		n.PortMap[p.Name] = int32(cmp.Or(p.To, p.Port))
	}
	return n
}

// publications reads what a job publishes.
func publications(list []string) (out []client.Publication, err error) {
	for _, text := range list {
		p, err := client.ParsePublication(text)
		if err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// checkTo refuses a port of a group without a number for to where Nomad's services show the task's
// own address: they would show it with port 0 (GetAddress in Nomad's client/serviceregistration).
func checkTo(info *client.Info, s client.TaskSpec) error {
	name := cmp.Or(s.Network, info.DefaultNetwork)
	if mode := info.Networks[name]; mode != modeBridged && mode != modeAlias {
		return nil
	}
	for _, port := range slices.Sorted(maps.Keys(s.Ports)) {
		if b := s.Ports[port]; b.Label != "" && b.To <= 0 {
			return fmt.Errorf("port %q of the group's network block needs to: tasks of the network %s have addresses "+
				"of their own, where Nomad's services show the number of to, and 0 without it; say to = 8080, where "+
				"the program listens, or to = -1 for the port's own number", b.Label, name)
		}
	}
	return nil
}

// checkIsolation refuses a network that Nomad made, where an agent has it reach the driver.
func checkIsolation(spec *proto.NetworkIsolationSpec) error {
	if spec == nil || spec.Mode == proto.NetworkIsolationSpec_HOST {
		return nil
	}
	return fmt.Errorf("a group's network block with mode = %q is not supported: remove mode there, and name one of "+
		"the host's networks in the task's config block, such as network = \"none\"; "+
		"`freejail networks` lists them", isolationMode(spec))
}

func isolationMode(spec *proto.NetworkIsolationSpec) string {
	if spec.Mode == proto.NetworkIsolationSpec_NONE {
		return "none"
	}
	return "bridge"
}
