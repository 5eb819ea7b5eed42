package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) networksCmd() *cobra.Command {
	var v *view[client.NetworkStatus]
	c := app.Command("networks [NETWORK]", "list the networks of this host, or describe one", cobra.MaximumNArgs(1),
		func(ctx context.Context, args []string) error {
			list, err := a.client().Networks(ctx)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.network(ctx, list, args[0], v)
			}
			return v.print(a, list, func(w io.Writer, list []client.NetworkStatus) {
				table(w, "NETWORK\tMODE\tSUBNETS\tADDRESSES\tTASKS", list, networkRow)
				for _, n := range list {
					printUnusable(w, n)
				}
			})
		})
	v = newView(c.Flags(), networkConditions, "f", "list networks alone for which `KEY=VALUE` holds: "+
		"name (a part of it), or mode; repeatable")
	return c
}

var networkConditions = conditions[client.NetworkStatus]{
	"name": func(n client.NetworkStatus, value string) bool { return strings.Contains(n.Name, value) },
	"mode": func(n client.NetworkStatus, value string) bool { return n.Mode == value },
}

func networkRow(n client.NetworkStatus) []string {
	name := n.Name
	if n.Default {
		name += " (default)"
	}
	addresses := "-"
	if n.Size > 0 {
		addresses = fmt.Sprintf("%d of %d", n.Used, n.Size)
	}
	return []string{name, n.Mode, list(n.Subnets), addresses, fmt.Sprint(len(n.Tasks))}
}

// list is texts with commas between them, or a dash.
func list(texts []string) string { return cmp.Or(strings.Join(texts, ","), "-") }

// network describes one, with what its tasks have of it.
func (a *commands) network(ctx context.Context, all []client.NetworkStatus, name string,
	v *view[client.NetworkStatus]) error {
	if len(v.filters) > 0 {
		return app.Usagef("--filter is for the list of networks")
	}
	i := slices.IndexFunc(all, func(n client.NetworkStatus) bool { return n.Name == name })
	if i < 0 {
		return fmt.Errorf("no such network on this host: %q; see `freejail networks`", name)
	}
	if v.format != "" {
		return printAs(a, v.format, all[i])
	}
	tasks, err := a.client().Tasks(ctx)
	if err != nil {
		return err
	}
	return a.Print(all[i], func(w io.Writer) {
		describeNetwork(w, all[i])
		for _, t := range tasks {
			if slices.Contains(all[i].Tasks, t.ID) {
				printable.Fprintf(w, "  %s  %s\n", t.ID, list(addressesOf(t)))
			}
		}
	})
}

func describeNetwork(w io.Writer, n client.NetworkStatus) {
	row := networkRow(n)
	isolate := ""
	if n.Isolate {
		isolate = "yes"
	}
	mtu := ""
	if n.MTU > 0 {
		mtu = fmt.Sprint(n.MTU)
	}
	for _, line := range [][2]string{{"Network", row[0]}, {"Mode", n.Mode}, {"Bridge", n.Bridge},
		{"Interface", n.Interface}, {"Subnets", strings.Join(n.Subnets, " ")},
		{"Pools", strings.Join(n.Pools, " ")}, {"Addresses", row[3]}, {"Gateways", strings.Join(n.Gateways, " ")},
		{"Name servers", strings.Join(n.DNS, " ")}, {"Isolate", isolate},
		{"Host access", strings.Join(n.HostAccess, " ")}, {"MTU", mtu}} {
		if line[1] != "" && line[1] != "-" {
			printable.Fprintf(w, "%-14s%s\n", line[0]+":", line[1])
		}
	}
	printUnusable(w, n)
	printable.Fprintf(w, "%-14s%d\n", "Tasks:", len(n.Tasks))
}

// printUnusable has a line for each thing that keeps tasks from a network.
func printUnusable(w io.Writer, n client.NetworkStatus) {
	for _, line := range n.Problems {
		printable.Fprintf(w, "%s cannot be used: %s\n", n.Name, line)
	}
}

// addressesOf are a task's own.
func addressesOf(t client.Task) (out []string) {
	if t.Network == nil {
		return nil
	}
	if t.Network.Addr4.IsValid() {
		out = append(out, t.Network.Addr4.String())
	}
	if t.Network.Addr6.IsValid() {
		out = append(out, t.Network.Addr6.String())
	}
	return out
}

// psNetwork is a task's network and its addresses there.
func psNetwork(t client.Task) string {
	if t.Network == nil {
		return "host"
	}
	return strings.Join(append([]string{t.Network.Name}, addressesOf(t)...), " ")
}

// psPort is a port with its place on the host, or else at the task's own address where others reach
// that, and where it leads to, if it is another one.
func psPort(t *client.Task, p client.Port) string {
	if own := reachedAt(t); p.Port == 0 && len(own) > 0 {
		p.Address, p.Port = own[0], p.To
	}
	inside := client.Ports(p.Inside(), p.Count)
	text, address := inside, p.Address
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	if p.Port > 0 {
		text = address + ":" + client.Ports(p.Port, p.Count)
	}
	if p.Port > 0 && p.To > 0 && p.To != p.Port {
		text += "->" + inside
	}
	if !strings.HasPrefix(p.Name, inside) { // one without a name of its own has its number
		text = p.Name + "=" + text
	}
	return text + "/" + p.Protocol
}

// traffic is what went in and out; a task on the host's network has none of its own.
func traffic(t *client.Traffic) string {
	if t == nil {
		return "-"
	}
	return units.BytesSize(float64(t.BytesIn)) + " / " + units.BytesSize(float64(t.BytesOut))
}
