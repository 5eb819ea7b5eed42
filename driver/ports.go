package driver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// portBindings are the ports that a task gets: those of the group by their labels, or what its
// job says of them.
func portBindings(cfg *proto.TaskConfig, config any) (map[string]client.PortBinding, error) {
	labels := groupPorts(cfg)
	if config == nil {
		return labels, nil
	}
	for label, b := range labels {
		b.Offered = false
		labels[label] = b
	}
	wanted, err := readPorts(config)
	if err != nil {
		return nil, fmt.Errorf("ports: %w", err)
	}
	out := map[string]client.PortBinding{}
	for name, what := range wanted {
		b, err := findPort(labels, what)
		if err != nil {
			return nil, fmt.Errorf("ports: %w", err)
		}
		if name == what && b.Label != name { // of a list, where the protocol is no part of the name
			name, _, _ = strings.Cut(what, "/")
		}
		out[name] = b
	}
	return out, nil
}

// groupPorts are the ports that Nomad has for a task, by their labels; those of the group are
// offered to each of its tasks.
func groupPorts(cfg *proto.TaskConfig) map[string]client.PortBinding {
	out := map[string]client.PortBinding{}
	for _, p := range cfg.GetResources().GetPorts() {
		out[p.Label] = client.PortBinding{Address: p.HostIp, Port: int(p.Value), Label: p.Label, To: int(p.To),
			Offered: true}
	}
	for _, n := range cfg.GetResources().GetAllocatedResources().GetNetworks() { // of the task alone
		for _, p := range slices.Concat(n.ReservedPorts, n.DynamicPorts) {
			out[p.Label] = client.PortBinding{Address: n.Ip, Port: int(p.Value), Label: p.Label}
		}
	}
	return out
}

// findPort finds what is "LABEL" or a number, each with /tcp or /udp or without.
func findPort(labels map[string]client.PortBinding, what string) (client.PortBinding, error) {
	if b, is := labels[what]; is {
		return b, nil
	}
	label, protocol, _ := strings.Cut(what, "/")
	b, is := labels[label]
	if !is {
		n, err := strconv.Atoi(label)
		if err != nil {
			return b, fmt.Errorf("%q is neither a port of the group's network block nor a number; it has: %s", label,
				cmp.Or(strings.Join(slices.Sorted(maps.Keys(labels)), ", "), "none"))
		}
		b = client.PortBinding{Port: n}
	}
	b.Protocol = protocol
	return b, nil
}

var errPorts = errors.New(`expected labels of the group's ports, ["http"], or names with labels, { http = "http" }`)

// readPorts reads a list of labels, or a map of names to labels or numbers. An attribute of a job
// file is a map in a list.
func readPorts(config any) (map[string]string, error) {
	out := map[string]string{}
	list, is := config.([]any)
	if !is {
		list = []any{config}
	}
	for _, item := range list {
		switch v := item.(type) {
		case string:
			if !is {
				return nil, errPorts
			}
			out[v] = v
		case map[string]any:
			for name, what := range v {
				text, err := portText(what)
				if err != nil {
					return nil, err
				}
				out[name] = text
			}
		default:
			return nil, errPorts
		}
	}
	return out, nil
}

func portText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case int64, uint64, float64:
		return fmt.Sprint(v), nil
	}
	return "", errPorts
}
