package daemon

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
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

// writeNetworks writes the metrics of networks.
func (d *Daemon) writeNetworks(w io.Writer) {
	used, size, faulty := map[string]int{}, map[string]int{}, map[string]int{}
	for _, s := range d.networks.List() {
		used[s.Name], size[s.Name], faulty[s.Name] = used[s.Name]+s.Used, s.Size, 0
		if s.Problem != "" {
			faulty[s.Name] = 1
		}
	}
	host.Gauges(w, "freejail_network_addresses", "Addresses that tasks of a network can have, of its smaller pool.",
		"network", size)
	host.Gauges(w, "freejail_network_addresses_used", "Addresses that are in use.", "network", used)
	host.Gauges(w, "freejail_network_faulty", "1 while tasks cannot have a network.", "network", faulty)
	p := d.networks.Ports()
	host.Gauge(w, "freejail_published_sockets", "Sockets that hold published ports.", uint64(p.Sockets))
	host.Gauge(w, "freejail_published_sockets_max", "How many there can be.", uint64(p.Most))
	host.Gauge(w, "freejail_forwarded_connections", "TCP connections that the daemon forwards itself.",
		uint64(p.Connections))
	host.Gauge(w, "freejail_forwarded_flows", "UDP flows that the daemon forwards itself.", uint64(p.Flows))
	host.Counter(w, "freejail_forward_drops_total", "Connections and datagrams dropped as there were too many.",
		p.Drops)
	d.writeTraffic(w)
}

// writeTraffic counts each stack once, by the first of the tasks that share it.
func (d *Daemon) writeTraffic(w io.Writer) {
	counters, err := d.networks.Counters()
	if err != nil {
		d.log.Warn("traffic of tasks is not counted", "error", err)
		return
	}
	var links []string
	of := map[string]network.Counters{}
	for _, t := range d.tasks.Tasks() {
		if t.Network == nil || t.Network.Link == "" || slices.Contains(links, t.Network.Link) {
			continue
		}
		if c, ok := counters[t.Network.Link]; ok {
			links, of[t.ID] = append(links, t.Network.Link), c
		}
	}
	for _, m := range []struct {
		name, help string
		value      func(network.Counters) uint64
	}{
		{"receive_bytes", "Bytes that a task received", func(c network.Counters) uint64 { return c.BytesIn }},
		{"transmit_bytes", "Bytes that a task sent", func(c network.Counters) uint64 { return c.BytesOut }},
		{"receive_packets", "Packets that a task received", func(c network.Counters) uint64 { return c.PacketsIn }},
		{"transmit_packets", "Packets that a task sent", func(c network.Counters) uint64 { return c.PacketsOut }},
	} {
		values := map[string]uint64{}
		for id, c := range of {
			values[id] = m.value(c)
		}
		host.Counters(w, fmt.Sprintf("freejail_task_network_%s_total", m.name), m.help+
			" by its own network stack; of tasks that share one, the first has it.", "task", values)
	}
}
