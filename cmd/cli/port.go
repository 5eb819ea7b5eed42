package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
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
var otherNames = map[string]string{"port": "publish", "net": "network"}

// networkName refuses what other tools have by this flag.
func (f *runFlags) networkName(text string) error {
	kind, _, more := strings.Cut(text, ":")
	switch {
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

// address is a flag of a fixed address of a family.
func (f *runFlags) address(family string, of func(netip.Addr) bool) func(string) error {
	return func(text string) error {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || !of(a) {
			return fmt.Errorf("not a valid address of %s", family)
		}
		f.Addresses = append(f.Addresses, a.String())
		return nil
	}
}

// port is a flag -p.
func (f *runFlags) port(text string) error {
	if strings.Contains(text, "=") {
		return f.namedPort(text)
	}
	p, err := client.ParsePublication(text)
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
	return app.Command("port TASK [PORT[/udp]]", "show where on the host the ports of a task are",
		cobra.RangeArgs(1, 2), func(ctx context.Context, args []string) error {
			t, err := a.client().Task(ctx, args[0])
			if err != nil {
				return err
			}
			list := slices.DeleteFunc(t.Ports, func(p client.Port) bool { return p.Port == 0 })
			if len(args) == 2 {
				list = slices.DeleteFunc(list, func(p client.Port) bool { return !isPort(p, args[1]) })
			}
			if len(args) == 2 && len(list) == 0 {
				return fmt.Errorf("no port of the host leads to port %s of task %s", args[1], args[0])
			}
			return a.Print(list, func(w io.Writer) { printPorts(w, t, list, len(args) == 2) })
		})
}

// isPort tells whether a port is PORT[/PROTOCOL], tcp where there is none, or has this name.
func isPort(p client.Port, text string) bool {
	port, protocol, _ := strings.Cut(text, "/")
	if text == p.Name {
		return true
	}
	n, err := strconv.Atoi(port)
	first := innerPort(p)
	return err == nil && n >= first && n < first+max(1, p.Count) && p.Protocol == cmp.Or(protocol, "tcp")
}

// innerPort is the first number of a port where its program listens.
func innerPort(p client.Port) int { return cmp.Or(p.To, p.Port) }

// printPorts has a line for each port and place, as other tools have it.
func printPorts(w io.Writer, t *client.Task, list []client.Port, placesOnly bool) {
	for _, p := range list {
		for _, place := range placesOf(t, p) {
			if placesOnly {
				printable.Fprintln(w, place)
				continue
			}
			printable.Fprintf(w, "%s/%s -> %s\n", numbers(innerPort(p), p.Count), p.Protocol, place)
		}
	}
}

func numbers(first, count int) string {
	if count > 1 {
		return fmt.Sprintf("%d-%d", first, first+count-1)
	}
	return strconv.Itoa(first)
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
		out = append(out, net.JoinHostPort(address, numbers(p.Port, p.Count)))
	}
	return out
}
