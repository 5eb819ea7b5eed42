package daemon

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/network"
)

// Networks are those that tasks can have, the host's and none included, and those that tasks have still.
func (d *Daemon) Networks() []client.NetworkStatus {
	list := []client.NetworkStatus{{Name: string(network.Host), Mode: string(network.Host)},
		{Name: string(network.None), Mode: string(network.None)}}
	for _, s := range d.networks.List() {
		if s.Mode != network.None {
			list = append(list, networkStatus(s))
		}
	}
	by := d.tasksByNetwork()
	for i := range list {
		list[i].Default = list[i].Name == cmp.Or(d.cfg.DefaultNetwork, string(network.Host))
		list[i].Tasks = by[list[i].Name]
	}
	return list
}

// tasksByNetwork are the tasks that use a network now, by its name.
func (d *Daemon) tasksByNetwork() map[string][]string {
	by := map[string][]string{}
	for _, t := range d.tasks.Tasks() {
		if t.State != client.Exited && t.State != client.Left {
			by[networkOf(t)] = append(by[networkOf(t)], t.ID)
		}
	}
	return by
}

// networkOf is the name of a task's network.
func networkOf(t client.Task) string {
	if t.Network == nil {
		return string(network.Host)
	}
	return t.Network.Name
}

func networkStatus(s network.Status) client.NetworkStatus {
	out := client.NetworkStatus{Name: s.Name, Mode: string(s.Mode), Interface: s.Interface, Bridge: s.Bridge,
		Isolate: s.Isolate, MTU: s.MTU, Used: s.Used, Size: s.Size}
	if s.Problem != "" {
		out.Problems = strings.Split(s.Problem, "\n")
	}
	out.Problems = append(out.Problems, s.Unheld...)
	if s.Mode == network.NAT {
		out.Bridge = s.OwnBridge()
	}
	for _, p := range []netip.Prefix{s.Subnet4, s.Subnet6} {
		if p.IsValid() {
			out.Subnets = append(out.Subnets, p.String())
		}
	}
	for _, r := range []network.Range{s.Pool4, s.Pool6} {
		if r.First.IsValid() {
			out.Pools = append(out.Pools, r.First.String()+"-"+r.Last.String())
		}
	}
	out.Gateways = texts([]netip.Addr{s.Gateway4, s.Gateway6})
	out.DNS = texts(s.DNS)
	for _, p := range s.HostAccess {
		out.HostAccess = append(out.HostAccess, client.Ports(int(p.First), int(p.Count))+"/"+p.Protocol)
	}
	return out
}

// texts are addresses but those that are none.
func texts(list []netip.Addr) (out []string) {
	for _, a := range list {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return out
}
