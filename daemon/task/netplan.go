package task

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
)

// connection is how a task is connected: by the plan, and once it is reserved with what it has there.
type connection struct {
	network network.Network // the zero one is of an image alone, of which nobody knows
	byHand  bool            // the task is of the command line, with its flags, and not of a job
	all     []network.Network
	// addresses are those that the job fixes.
	addresses []netip.Addr
	endpoint  network.Endpoint
}

// onHost tells whether the task has the host's stack and all of its addresses.
func (c *connection) onHost() bool { return c.network.Mode == "" || c.network.Mode == network.Host }

// reached tells whether others than freejail's own tasks reach a task by addresses of its own.
func (c *connection) reached() bool {
	return c.network.Mode == network.Bridged || c.network.Mode == network.Alias
}

// translated tells whether ports of the host can lead to the task.
func (c *connection) translated() bool { return c.network.Mode == network.NAT }

// led tells whether a port of the host that a scheduler chose leads to the task: by translation, or by the
// daemon alone where the task is reached at addresses of its own, too.
func (c *connection) led() bool { return c.translated() || c.reached() }

// address is the task's own; 127.0.0.1 where it has none.
func (c *connection) address() netip.Addr {
	for _, a := range []netip.Addr{c.endpoint.Addr4, c.endpoint.Addr6} {
		if a.IsValid() {
			return a
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// named are the networks of some modes, by name.
func (c *connection) named(modes ...network.Mode) (names []string) {
	for _, n := range c.all {
		if slices.Contains(modes, n.Mode) {
			names = append(names, n.Name)
		}
	}
	return names
}

// networks are all of a host, with those that need no configuration.
func networks(configured []network.Network) []network.Network {
	return append([]network.Network{{Name: string(network.Host), Mode: network.Host},
		{Name: string(network.None), Mode: network.None}}, configured...)
}

// waitingNetwork tells that the host's file has a network of which the daemon does not know yet.
func (m *Manager) waitingNetwork(name string) string {
	now, err := host.LoadConfig(m.Config.Path)
	if err != nil || !slices.ContainsFunc(now.Networks, func(n network.Network) bool { return n.Name == name }) {
		return ""
	}
	return fmt.Sprintf("%s has it, and the daemon does not know of it yet: `%s`", m.Config.Path, client.UpgradeCommand)
}

// addNetwork chooses the task's network: the job's, or else the host's default. Of that a permit is not
// needed, and a deny holds.
func (m *Manager) addNetwork(p *plan, spec client.TaskSpec) error {
	usual := cmp.Or(m.Config.DefaultNetwork, string(network.Host))
	name, source := cmp.Or(spec.Network, usual), policy.FromJob
	if name == usual {
		source = policy.FromHost
	}
	p.all, p.byHand = networks(m.Config.Networks), spec.Owner == "cli"
	i := slices.IndexFunc(p.all, func(n network.Network) bool { return n.Name == name })
	if i < 0 {
		var names []string
		for _, n := range p.all {
			names = append(names, n.Name)
		}
		if waiting := m.waitingNetwork(name); waiting != "" {
			return client.Unavailable("network %q: %s", name, waiting)
		}
		return client.Invalid("network %q: this host has no such network; it has: %s", name, strings.Join(names, ", "))
	}
	p.network = p.all[i]
	p.ask(policy.Network(name), source)
	if err := p.checkShare(spec); err != nil {
		return err
	}
	return p.addAddresses(spec)
}

// checkShare refuses a stack that nobody could share.
func (p *plan) checkShare(spec client.TaskSpec) error {
	switch {
	case spec.Share == "":
		return nil
	case spec.Share != "group":
		return client.Invalid("share %q: only \"group\" is supported: all tasks of the allocation in one network stack",
			spec.Share)
	case !validAlloc.MatchString(spec.NomadLabels()["alloc_id"]):
		return client.Invalid("share = \"group\" is for tasks of an allocation of Nomad's, and this is none")
	case !p.network.Mode.OwnStack():
		return client.Invalid("share = \"group\" needs a network with a stack of its own, and %s is %s: name one of "+
			"%s (%s)", p.network.Name, modeText(p.network.Mode), p.ownStacks(), p.naming())
	}
	return nil
}

// naming is how a network is named by whom the task is of.
func (p *plan) naming() string {
	if p.byHand {
		return "--network NAME"
	}
	return "network = \"NAME\""
}

// ownStacks names the networks whose tasks have a stack of their own.
func (p *plan) ownStacks() string {
	return strings.Join(p.named(network.NAT, network.Bridged, network.None), ", ")
}

func modeText(m network.Mode) string {
	switch m {
	case network.Host:
		return "the host's own stack"
	case network.Alias:
		return "the host's own stack with an address for each task (alias)"
	case network.None:
		return "a stack with loopback alone"
	}
	return "of the mode " + string(m)
}

// addAddresses reads the fixed addresses of a job, and asks for them.
func (p *plan) addAddresses(spec client.TaskSpec) error {
	for _, text := range spec.Addresses {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a != a.Unmap().WithZone(""):
			return client.Invalid("address %q is not an IP address (for example 10.88.0.7)", text)
		case p.onHost() || p.network.Mode == network.None:
			return client.Invalid("address %s: the network %s is %s, and gives none", a, p.network.Name,
				modeText(p.network.Mode))
		case !p.network.Pool4.Contains(a) && !p.network.Pool6.Contains(a):
			return client.Invalid("address %s is not in a pool of the network %s", a, p.network.Name)
		case slices.ContainsFunc(p.addresses, func(o netip.Addr) bool { return o.Is4() == a.Is4() }):
			return client.Invalid("address %s: a task has one address of each family", a)
		}
		p.addresses = append(p.addresses, a)
		p.ask(policy.Address(a), policy.FromJob)
	}
	return nil
}

// checkStack holds what is asked for of a jail's network against the one that the task has.
func (p *plan) checkStack(w client.Wants, source policy.Source) error {
	if w.VNET {
		p.ask(policy.VNET, source)
		if p.network.Mode != "" && !p.network.Mode.OwnStack() {
			return client.Invalid("the %s asks for a network stack of its own (requires.vnet), and the network %s is "+
				"%s: name one of %s (%s), or make one the host's default_network", source, p.network.Name,
				modeText(p.network.Mode), p.ownStacks(), p.naming())
		}
	}
	if p.onHost() {
		return nil
	}
	for name := range w.Jail {
		switch top, _, _ := strings.Cut(name, "."); top {
		case "ip4", "ip6", "noip4", "noip6", "interface":
			return client.Invalid("jail parameter %s of the %s: the network %s gives the task its addresses; the "+
				"parameter is for the network host alone", name, source, p.network.Name)
		}
	}
	return nil
}

// networkRequest is what the plan asks of the host's networks.
func (c *connection) networkRequest() network.Request {
	return network.Request{Network: c.network.Name, Addresses: c.addresses}
}

// netPort is count ports, at least one, as rules have them.
func netPort(protocol string, first, count int) network.Port {
	return network.Port{Protocol: protocol, First: uint16(first), Count: uint16(max(1, count))}
}

// networkTask is what the rules of the host have to know of a task, whose ports are within bounds.
func networkTask(i client.Task, key string, e network.Endpoint) network.Task {
	out := network.Task{Key: key, Endpoint: e}
	for _, p := range i.Ports {
		in := netPort(p.Protocol, p.Inside(), p.Count)
		if !slices.Contains(out.Declared, in) {
			out.Declared = append(out.Declared, in)
		}
		if p.Port == 0 {
			continue
		}
		at, err := netip.ParseAddr(p.Address)
		if err != nil { // empty is all of the host
			at = netip.Addr{}
		}
		led := network.Publication{At: at.Unmap(), Port: netPort(p.Protocol, p.Port, p.Count), To: in.First}
		if !slices.Contains(out.Published, led) { // which may have two names
			out.Published = append(out.Published, led)
		}
	}
	return out
}

// networkInfo is an endpoint as clients are told of it.
func networkInfo(e network.Endpoint) *client.NetworkInfo {
	return &client.NetworkInfo{Name: e.Network, Mode: string(e.Mode), Stack: e.Stack, Link: e.Link, MAC: e.MAC,
		Addr4: e.Addr4, Addr6: e.Addr6}
}

// networkParams confine a jail on the host's stack to its own addresses. One in a stack of its own has
// all of that.
func networkParams(e network.Endpoint) map[string]string {
	if e.Mode != network.Alias {
		return nil
	}
	out := map[string]string{"ip4": "disable", "ip6": "disable"}
	for family, a := range map[string]netip.Addr{"ip4": e.Addr4, "ip6": e.Addr6} {
		if a.IsValid() {
			out[family], out[family+".addr"] = "new", a.String()
		}
	}
	return out
}
