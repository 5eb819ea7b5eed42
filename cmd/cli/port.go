package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// network are the flags of a task's network.
func (f *runFlags) network(fl *pflag.FlagSet) {
	fl.Func("network", "one of the host's networks by its `NAME`, host or none (default: default_network of the host)",
		f.networkName)
	fl.Func("ip", "a fixed `ADDRESS` of IPv4, of the network's pool", f.address("IPv4", netip.Addr.Is4))
	fl.Func("ip6", "a fixed `ADDRESS` of IPv6, of the network's pool", f.address("IPv6", netip.Addr.Is6))
	fl.FuncP("publish", "p", "lead a `PORT` of the host to the task's: [[ADDRESS:]PORT:]PORT[/udp], either a range "+
		"too (8000-8010); or the host's port for one of the image by its name: NAME=[ADDRESS:]PORT[/udp]", f.port)
	fl.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if known := otherNames[name]; known != "" {
			name = known
		}
		return pflag.NormalizedName(name)
	})
}

// otherNames are those of flags that users know from before, and from other tools.
var otherNames = map[string]string{"port": "publish", "net": "network", "dns-opt": "dns-option"}

// networkName refuses what other tools have by this flag.
func (f *runFlags) networkName(text string) error {
	kind, options, more := strings.Cut(text, ":")
	switch {
	case f.Network != "":
		return fmt.Errorf("a task has one network, and %s is given already", f.Network)
	case strings.Contains(options, "="):
		return fmt.Errorf("a network has no options here: its name alone, %s, and --ip or --ip6 for an address", kind)
	case more && kind == "container":
		return errors.New("a task cannot join the network stack of another: the tasks of one allocation have one by " +
			"share = \"group\" in their job")
	case more || text == "":
		return errors.New("expected the name of one of the host's networks, host or none; `freejail networks` " +
			"lists them")
	}
	f.Network = text
	return nil
}

// otherFamily is the flag for addresses that are not of a family.
var otherFamily = map[string]string{"IPv4": "--ip6", "IPv6": "--ip"}

// address is a flag of a fixed address of a family.
func (f *runFlags) address(family string, of func(netip.Addr) bool) func(string) error {
	return func(text string) error {
		a, err := netip.ParseAddr(text)
		if err == nil && a.Zone() == "" && !of(a) {
			return fmt.Errorf("%s is not an address of %s: give it by %s", a, family, otherFamily[family])
		}
		if err != nil || a.Zone() != "" {
			return fmt.Errorf("not a valid address of %s", family)
		}
		if slices.ContainsFunc(f.Addresses, func(o string) bool { return of(netip.MustParseAddr(o)) }) {
			return fmt.Errorf("a task has one address of %s", family)
		}
		f.Addresses = append(f.Addresses, a.String())
		return nil
	}
}

// portName is what a port of an image may be called, and no number or range is.
var portName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// port is a flag -p.
func (f *runFlags) port(text string) error {
	if strings.Contains(text, "=") {
		return f.namedPort(text)
	}
	p, err := client.ParsePublication(text)
	if name := text[strings.LastIndexByte(text, ':')+1:]; err != nil && portName.MatchString(name) {
		err = fmt.Errorf("%w; for a port of the image by its name: %s=8081", err, name)
	}
	if err == nil && slices.Contains(f.Publish, p) {
		err = fmt.Errorf("%s is given twice", p)
	}
	f.Publish = append(f.Publish, p)
	return err
}

var errPort = errors.New("expected NAME=PORT or NAME=ADDRESS:PORT")

// namedPort reads NAME=[ADDRESS:]PORT[/PROTOCOL].
func (f *runFlags) namedPort(text string) error {
	text, protocol, given := strings.Cut(text, "/")
	protocol = strings.ToLower(protocol)
	name, place, _ := strings.Cut(text, "=")
	b, err := hostPort(place)
	_, twice := f.Ports[name]
	switch {
	case given && protocol != "tcp" && protocol != "udp":
		err = fmt.Errorf("the protocol %q is neither tcp nor udp", protocol)
	case name == "":
		err = errPort
	case twice:
		err = fmt.Errorf("port %s is given twice", name)
	}
	if err != nil {
		return err
	}
	if f.Ports == nil {
		f.Ports = map[string]client.PortBinding{}
	}
	b.Protocol = protocol
	f.Ports[name] = b
	return nil
}

// hostPort reads [ADDRESS:]PORT.
func hostPort(text string) (b client.PortBinding, err error) {
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		b.Address, text = strings.Trim(text[:i], "[]"), text[i+1:]
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return b, errPort
	case n < 1 || n > 65535:
		return b, fmt.Errorf("%d is not a valid port (1 to 65535)", n)
	}
	b.Port = n
	return b, nil
}

func (a *commands) portCmd() *cobra.Command {
	return app.Command("port TASK [PORT[/udp]]", "show where the ports of a task are reached",
		cobra.RangeArgs(1, 2), func(ctx context.Context, args []string) error {
			t, err := a.client().Task(ctx, args[0])
			if err != nil {
				return err
			}
			list := places(t)
			if len(args) == 2 {
				if list = onePort(list, args[1]); len(list) == 0 {
					return noPlace(t, args[1])
				}
			}
			return a.Print(list, func(w io.Writer) { printPorts(w, t, list, len(args) == 2) })
		})
}

// places are the ports of a task where others reach them: on the host, and at addresses of its own.
func places(t *client.Task) (out []client.Port) {
	for _, p := range t.Ports {
		if p.Port != 0 {
			out = append(out, p)
		}
		for _, address := range reachedAt(t) {
			own := p
			own.Address, own.Port, own.To = address, p.Inside(), p.Inside()
			out = append(out, own)
		}
	}
	return out
}

// reachedAt are a task's own addresses, where others than freejail's tasks reach it there.
func reachedAt(t *client.Task) []string {
	if t.Network == nil || t.Network.Mode != "bridged" && t.Network.Mode != "alias" {
		return nil
	}
	return addressesOf(*t)
}

// noPlace tells where a port is reached that is not on the host.
func noPlace(t *client.Task, text string) error {
	own := onePort(t.Ports, text)
	if len(own) == 0 {
		return fmt.Errorf("task %s has no port %s; it has: %s", t.Spec.ID, text, portList(t.Ports))
	}
	where := ""
	if addresses := addressesOf(*t); len(addresses) > 0 {
		where = fmt.Sprintf("; tasks of the network %s reach it at %s", t.Network.Name,
			net.JoinHostPort(addresses[0], strconv.Itoa(own[0].Inside())))
	}
	return fmt.Errorf("no port of the host leads to port %s of task %s%s", text, t.Spec.ID, where)
}

// portList names ports by their numbers in the task.
func portList(ports []client.Port) string {
	var all []string
	for _, p := range ports {
		if text := client.Ports(p.Inside(), p.Count) + "/" + p.Protocol; !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// onePort are those that are PORT[/PROTOCOL] of the task, tcp where there is none, or have this name, or lead
// to the one that has it. One of a range is that one.
func onePort(list []client.Port, text string) (out []client.Port) {
	port, protocol, _ := strings.Cut(text, "/")
	number, err := strconv.Atoi(port)
	if i := slices.IndexFunc(list, func(p client.Port) bool { return p.Name == text }); i >= 0 && err != nil {
		number, protocol, err = list[i].Inside(), list[i].Protocol, nil
	}
	for _, p := range list {
		n := number - p.Inside()
		switch {
		case p.Name == text:
		case err != nil || n < 0 || n >= max(1, p.Count) || p.Protocol != cmp.Or(protocol, "tcp"):
			continue
		case p.Count > 1:
			p.To, p.Count = number, 0
			if p.Port != 0 {
				p.Port += n
			}
		}
		out = append(out, p)
	}
	return out
}

// printPorts has a line for each port and place, as other tools have it.
func printPorts(w io.Writer, t *client.Task, list []client.Port, placesOnly bool) {
	for _, p := range list {
		for _, place := range placesOf(t, p) {
			if placesOnly {
				printable.Fprintln(w, place)
				continue
			}
			printable.Fprintf(w, "%s/%s -> %s\n", client.Ports(p.Inside(), p.Count), p.Protocol, place)
		}
	}
}

// placesOf are the addresses of the host with the port there. One that is at all addresses is shown
// for each family that the task has.
func placesOf(t *client.Task, p client.Port) (out []string) {
	all := []string{"0.0.0.0", "::"}
	if n := t.Network; n != nil && !n.Addr6.IsValid() {
		all = all[:1]
	} else if n != nil && !n.Addr4.IsValid() {
		all = all[1:]
	}
	if p.Address != "" {
		all = []string{p.Address}
	}
	for _, address := range all {
		out = append(out, net.JoinHostPort(address, client.Ports(p.Port, p.Count)))
	}
	return out
}
